"""What documents name exists: commands with their options, benchmarks, variables, metrics, make targets, links.

`make docs-test` runs the commands, which takes minutes.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client import Counter, Gauge, Histogram

from streams.cli import cli
from streams.runtime import metrics as metric_names
from tests.doors.blocks import blocks, commands, inline
from tests.doors.documents import DOCUMENTS

ROOT = Path(__file__).parent.parent
ALL = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
HISTORY = ("CHANGELOG.md",)
"""Names what there was."""
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SOURCES = {
    folder: "".join(p.read_text() for p in (ROOT / folder).rglob("*.py")) for folder in ("streams", "benchmarks")
}
METRICS = {
    f"{metric._name}_total" if isinstance(metric, Counter) else metric._name
    for metric in vars(metric_names).values()
    if isinstance(metric, Counter | Gauge | Histogram)
}


def typed(document: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every command, in blocks and in the text."""
    for block in blocks(document):
        if block.language == "sh":
            yield from commands(block)
    yield from inline(document)


def fault_of_tiderank(command: str) -> str | None:
    words = shlex.split(re.split(r"[|;>]", command)[0])[1:]
    found: click.Command = cli
    context = click.Context(cli)
    try:
        while isinstance(found, click.Group) and words:
            _, child, words = found.resolve_command(context, words)
            assert child is not None
            found, context = child, click.Context(child, parent=context)
        if not isinstance(found, click.Group):
            found.make_parser(context).parse_args(words)
    except click.BadOptionUsage as error:
        return None if "requires an argument" in error.message else error.message
    except click.UsageError as error:
        return error.message
    return None


def fault_of_benchmark(command: str) -> str | None:
    module = re.search(r"python -m benchmarks\.(\w+)", command)
    if module and not (ROOT / "benchmarks" / f"{module[1]}.py").exists():
        return f"no benchmark {module[1]}"
    options = re.findall(r"(?<= )--[a-z-]+", command) if module else []
    unknown = [option for option in options if f'"{option}"' not in SOURCES["benchmarks"]]
    return f"no benchmark has {unknown}" if unknown else None


def faults(document: Path) -> list[str]:
    """Line and what is wrong, of each name that does not exist."""
    found = []
    for line, command in typed(document):
        fault = None
        if command.startswith("tiderank "):
            fault = fault_of_tiderank(command)
        elif "python -m benchmarks." in command:
            fault = fault_of_benchmark(command)
        elif command.startswith("make ") and (unknown := set(command.split()[1:2]) - TARGETS):
            fault = f"no target {unknown}"
        if fault:
            found.append(f"{line}: {command}: {fault}")
    for number, text in enumerate(document.read_text().splitlines(), 1):
        variables = {name for name in re.findall(r"\bTIDERANK_[A-Z_]*[A-Z]\b", text) if "_KAFKA_" not in name}
        found += [f"{number}: no variable {name}" for name in variables if f'"{name}"' not in SOURCES["streams"]]
        found += [f"{number}: no metric {name}" for name in set(re.findall(r"\btiderank_[a-z_]+", text)) - METRICS]
    return found


def anchors(document: Path) -> set[str]:
    """What links may name: headings, in small letters with hyphens between the words, and marks of our own."""
    text = document.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return words | set(re.findall(r'<a id="(.+?)">', text))


def broken(document: Path) -> list[str]:
    """Links to a file or heading that is not there; those to other places are not looked at."""
    found = []
    for link in re.findall(r"\]\(([^()\s]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("document", [d for d in ALL if d.name not in HISTORY], ids=lambda d: str(d.relative_to(ROOT)))
def test_what_it_names_exists(document: Path) -> None:
    assert faults(document) == []


@pytest.mark.parametrize("document", [*ALL, ROOT / "benchmarks" / "README.md"], ids=lambda d: str(d.relative_to(ROOT)))
def test_its_links_lead_somewhere(document: Path) -> None:
    assert broken(document) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    document = tmp_path / "it.md"
    document.write_text(
        "# A `b`, and c\n[1](#a-b-and-c) [2](#c) [3](no.md) [4](it.md#a-b-and-c) [5](https://a.org/b)\n"
    )
    assert broken(document) == ["#c", "no.md"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```sh\ntiderank audit --no-such\n```", "2: tiderank audit --no-such: No such option"),
        ("```sh\ntiderank \\\n  no-such | cat\n```", "2: tiderank no-such | cat: No such command"),
        ("    tiderank user no-such U  # a word", "1: tiderank user no-such U: No such command"),
        ("say `tiderank updates\ntail --no-such`", "1: tiderank updates tail --no-such: No such option"),
        ("`python -m benchmarks.no_such`", "no benchmark no_such"),
        ("`OMP_NUM_THREADS=1 python -m benchmarks.chaos --no-such 1`", "no benchmark has ['--no-such']"),
        ("`make no-such`", "no target {'no-such'}"),
        ("set TIDERANK_NO_SUCH", "1: no variable TIDERANK_NO_SUCH"),
        ("| `tiderank_audit_total{a=1}` |", "1: no metric tiderank_audit_total"),
    ],
)
def test_what_does_not_exist_is_found(text: str, says: str, tmp_path: Path) -> None:
    document = tmp_path / "it.md"
    document.write_text(f"{text}\n")
    (fault,) = faults(document)
    assert says in fault


def test_a_fence_that_is_not_closed_and_a_stray_comment_are_errors(tmp_path: Path) -> None:
    document = tmp_path / "it.md"
    for text in ("```sh\nls\n", "<!-- docs-test: skip because -->\ntext\n"):
        document.write_text(text)
        with pytest.raises(ValueError, match=r"it\.md"):
            list(blocks(document))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_comments_say_something_of_their_block(name: str) -> None:
    for block in blocks(ROOT / name):
        assert {kind for kind, _ in block.notes} <= {"skip", "set", "until"}
        for said in block.said("skip"):
            if only := re.match(r"`(.+?)` ", said):
                assert any(command.startswith(only[1]) for _, command in commands(block)), said
        for said in block.said("set"):
            assert re.search(rf"\b{said.split('=')[0]}\b", block.text), said
