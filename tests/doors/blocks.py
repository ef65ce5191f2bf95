"""The code of a document: fenced blocks, indented commands, and inline code, each with its line.

What a reader does not see says how a block is run: comments `<!-- docs-test: ... -->` before it.

    skip REASON                  the whole block
    skip `COMMAND` REASON        its lines that begin so
    set NAME=VALUE               what stands for a word of it; the shell expands the value
    until TEXT                   its last command runs on until the end, and must have printed TEXT by then
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"```(\w*)$")
NOTE = re.compile(r"<!-- docs-test: (\w+) (.+?) -->$")
INDENTED = re.compile(r" {4}(tiderank .+)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    line: int
    """Line of the document, from 1, where its text begins."""
    language: str
    text: str
    notes: tuple[tuple[str, str], ...]

    def skipped(self, command: str = "") -> str | None:
        """Why the block, or this command of it, is not run."""
        for reason in self.said("skip"):
            only = re.match(r"`(.+?)` (.+)", reason)
            if only is None or (command and command.startswith(only[1])):
                return only[2] if only else reason
        return None

    def said(self, kind: str) -> list[str]:
        return [text for said, text in self.notes if said == kind]


def blocks(document: Path) -> Iterator[Block]:
    """In order. Raises ValueError where a fence is not closed, or a comment stands before no block."""
    lines = document.read_text().splitlines()
    notes: list[tuple[str, str]] = []
    at = 0
    while at < len(lines):
        start, line = at, lines[at]
        at += 1
        if note := NOTE.match(line):
            notes.append((note[1], note[2]))
        elif fence := FENCE.match(line):
            at = _end(lines, at, document) + 1
            text = "\n".join(lines[start + 1 : at - 1])
            yield Block(line=start + 2, language=fence[1], text=text, notes=tuple(notes))
            notes = []
        elif INDENTED.match(line):
            while at < len(lines) and INDENTED.match(lines[at]):
                at += 1
            text = "\n".join(text[4:] for text in lines[start:at])
            yield Block(line=start + 1, language="sh", text=text, notes=tuple(notes))
            notes = []
        elif line and notes:
            raise ValueError(f"{document.name}:{start + 1}: a docs-test comment must stand right before a block")


def _end(lines: list[str], at: int, document: Path) -> int:
    for end in range(at, len(lines)):
        if lines[end] == "```":
            return end
    raise ValueError(f"{document.name}:{at}: a fence that is not closed")


def commands(block: Block) -> Iterator[tuple[int, str]]:
    """Line and text of each command of a shell block, without its comment; continued lines are one."""
    whole, start = "", 0
    for number, line in enumerate(block.text.splitlines(), block.line):
        bare = re.sub(r"(^|\s+)# .*$", "", line)
        start = start if whole else number
        whole += bare.lstrip() if whole else bare
        if whole.endswith(("\\", "|")):
            whole = whole.removesuffix("\\").rstrip() + " "
        elif whole:
            yield start, whole
            whole = ""


def inline(document: Path) -> Iterator[tuple[int, str]]:
    """Line and text of the inline code outside of blocks; code that goes over a line's end is one."""
    text = re.sub(r"```.*?\n```", lambda fenced: "\n" * fenced[0].count("\n"), document.read_text(), flags=re.DOTALL)
    for code in re.finditer(r"`([^`]+)`", text):
        yield text.count("\n", 0, code.start()) + 1, " ".join(code[1].split())
