"""`make docs-test`: runs each command of the documents that tell a reader what to type, in order, in one empty folder.

The first `tiderank up` runs in the background until the end, and what it exports is set for what follows. Commands that
would run until Ctrl-C get one.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.doors.blocks import Block, blocks, commands, inline

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".cache" / "docs-test"
DOCUMENTS = ("README.md", "docs/own-data.md", "docs/wire.md", "docs/operations.md")
TIMEOUT_S = 1_800.0
"""Time for one command: as long as a demo may take where other work is done, too."""
FOLLOWED_S = 30
"""How long a command that follows a topic is let run."""
STATE = re.compile(r"(export |\. |\w+\(\) \{)")
"""Lines that change the shell for all that follows."""
RUNS_ON = re.compile(r"tiderank (simulate|up)\b")
TABLES = """
import pyarrow as pa, pyarrow.parquet as pq, random
random.seed(0)
for name in ("train", "valid", "test", "new", "seen"):
    rows = [{"user": random.randrange(50), "ad": random.randrange(20), "price": random.random()} for _ in range(500)]
    labels = [row | {"click": int(row["ad"] % 3 == 0 or random.random() < 0.1)} for row in rows]
    pq.write_table(pa.Table.from_pylist(labels), f"{name}.parquet")

def shown(n):
    category = random.randrange(8)
    return {
        "visitor": f"v{random.randrange(200)}", "product": f"p{random.randrange(15)}.{category}",
        "ts": 1_760_000_000_000 + 3_000 * n, "slot": n % 4, "segment": random.choice("abcd"),
        "device": random.choice("xy"), "category": f"c{category}", "brand": f"b{category % 3}",
        "tags": random.sample(["new", "sale"], n % 3), "price": random.random(),
        "clicked": int(random.random() < 0.1 + 0.03 * category),
    }

pq.write_table(pa.Table.from_pylist([shown(n) for n in range(3_000)]), "clicks.parquet")
"""
"""The files that documents name as the reader's own."""


@dataclass
class Result:
    place: str
    command: str
    outcome: str
    seconds: float = 0.0
    output: str = ""


@dataclass
class Session:
    """A reader's terminal: its folder, what was exported, and what still runs."""

    stack: ExitStack
    prelude: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    waiting: list[tuple[Result, subprocess.Popen[bytes], Path, str]] = field(default_factory=list)
    """What runs in the background, its log, and what it must have printed by the end of its document."""
    house: subprocess.Popen[bytes] | None = None
    began: str = ""
    """The command that opened the house."""

    def note(self, result: Result) -> None:
        self.results.append(result)
        print(f"{result.place:<24}{result.seconds:>6.0f} s  {result.outcome:<8} {result.command}", flush=True)
        if result.outcome == "failed":
            print(re.sub("^", "    ", result.output[-3000:], flags=re.MULTILINE), flush=True)

    def start(self, text: str, log: Path) -> subprocess.Popen[bytes]:
        script = "\n".join(["set -o pipefail", *self.prelude, text])
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TIDERANK_", "PYTHON", "VIRTUAL_"))}
        given = {"PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=HOME,
                env=clean | given,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.stack.callback(end, process)
        return process

    def run(self, place: str, command: str, text: str | None = None) -> None:
        self.keep_house(place)
        begin, log = time.monotonic(), HOME / "command.log"
        process = self.start(text or command, log)
        try:
            status: int | str = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = f"not ended in {TIMEOUT_S:.0f} s"
        end(process)
        outcome = "ok" if status == 0 else "failed"
        output = log.read_text(errors="replace")
        self.note(Result(place, command, outcome, time.monotonic() - begin, f"{output}\nstatus: {status}"))

    def run_on(self, place: str, command: str, until: str) -> None:
        """Starts it in the background; `settle` waits for its text."""
        self.keep_house(place)
        log = HOME / f"background-{len(self.results)}-{len(self.waiting)}.log"
        process = self.start(command, log)
        self.waiting.append((Result(place, command, "failed", time.monotonic()), process, log, until))

    def open_house(self, place: str, command: str) -> None:
        """Starts it in the background, and sets what it exports for all that follows."""
        begin, log = time.monotonic(), HOME / "house.log"
        process = self.start(command, log)
        exported = None
        while exported is None and process.poll() is None and time.monotonic() - begin < TIMEOUT_S:
            time.sleep(0.5)
            exported = re.search(r"^\s*(export TIDERANK.*)$", log.read_text(), re.MULTILINE)
        if exported is not None:
            self.prelude.append(exported[1])
            self.house, self.began = process, command
        outcome = "ok" if exported else "failed"
        self.note(Result(place, command, outcome, time.monotonic() - begin, log.read_text()))

    def keep_house(self, place: str) -> None:
        """A house that has ended by itself is a failure, once: what follows gets another."""
        if self.house is not None and self.house.poll() is not None:
            said = (HOME / "house.log").read_text(errors="replace")
            self.house = None
            self.note(Result(place, f"{self.began}   (it ended by itself, and is started again)", "failed", 0.0, said))
            self.open_house(place, self.began)

    def settle(self) -> None:
        """What runs in the background ends by itself with status 0, or has said its text within a minute more."""
        for result, process, log, until in self.waiting:
            begin, limit = time.monotonic(), 60.0 if until else TIMEOUT_S
            while time.monotonic() - begin < limit and process.poll() is None:
                if until and until in log.read_text(errors="replace"):
                    break
                time.sleep(0.5)
            result.output = log.read_text(errors="replace")
            good = until in result.output if until else process.poll() == 0
            result.outcome, result.seconds = "ok" if good else "failed", time.monotonic() - result.seconds
            end(process)
            self.note(result)
        self.waiting.clear()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the command with all that it started."""
    for number, patience_s in ((signal.SIGINT, 30), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            return


def filled(command: str, block: Block) -> str:
    """With values for the words that stand for something, and without what is optional."""
    command = re.sub(r" \[[A-Z]+\](\.\.\.)?", "", command)
    for said in block.said("set"):
        name, value = said.split("=", 1)
        command = value.join(re.split(rf"\b{name}\b", command))
    return command


def run_shell(session: Session, document: str, block: Block) -> None:
    found = list(commands(block))
    for number, (line, command) in enumerate(found):
        place, filled_in = f"{document}:{line}", filled(command, block)
        if reason := block.skipped(command):
            session.note(Result(place, f"{command}   ({reason})", "skipped"))
        elif STATE.match(command):
            session.prelude.append(command)
            session.run(place, command, ":")
        elif command.startswith("tiderank up") and session.house is None:
            session.open_house(place, command)
        elif number == len(found) - 1 and (until := block.said("until")):
            session.run_on(place, filled_in, until[0])
        elif RUNS_ON.match(command):
            session.run_on(place, filled_in, "")
        elif command.endswith(" -f"):
            session.run(
                place, command, f"timeout -s INT {FOLLOWED_S} {filled_in} > followed; test $? -eq 124 -a -s followed"
            )
        else:
            session.run(place, command, filled_in)


def run_block(session: Session, document: str, block: Block) -> None:
    place = f"{document}:{block.line}"
    if block.language == "sh":
        run_shell(session, document, block)
    elif reason := block.skipped():
        session.note(Result(place, f"{block.language}   ({reason})", "skipped"))
    elif block.language == "python":
        session.run(place, "python: " + block.text.splitlines()[-1], f"python - <<'PYTHON'\n{block.text}\nPYTHON")
    elif block.language == "toml":
        (HOME / "mine.toml").write_text(block.text + "\n")
        load = "from streams.config.load import load_recipe; load_recipe('mine.toml')"
        session.run(place, "toml: as a recipe", f'python -c "{load}"')


def run_inline(session: Session, document: Path, name: str) -> None:
    """The commands of the text, each once, that are whole and end by themselves."""
    seen = {result.command for result in session.results}
    for line, command in inline(document):
        if command.startswith("tiderank ") and command not in seen:
            seen.add(command)
            if reason := not_run(command):
                session.note(Result(f"{name}:{line}", f"{command}   ({reason})", "skipped"))
            else:
                session.run(f"{name}:{line}", command)


def not_run(command: str) -> str | None:
    if re.match(r"tiderank (rank|up)\b", command):
        return "runs until Ctrl-C"
    if command.endswith(" --to") or command == "tiderank access" or re.search(r"\b[A-Z]{3,}\b", command):
        return "a part of a command"
    if re.match(r"tiderank load\b", command):
        return "a block of the README has it"
    return None


def prepare() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
    (HOME / ".cache").mkdir(parents=True)
    (HOME / ".venv").symlink_to(ROOT / ".venv")
    (HOME / ".cache" / "kafka").symlink_to(ROOT / ".cache" / "kafka")
    subprocess.run([sys.executable, "-c", TABLES], cwd=HOME, check=True)
    mapping = next(block for block in blocks(ROOT / "docs/own-data.md") if block.language == "toml")
    (HOME / "clicks.toml").write_text(mapping.text + "\n")


def run(documents: list[str]) -> Iterator[Result]:
    prepare()
    with ExitStack() as stack:
        session = Session(stack)
        for name in documents:
            if name != "README.md" and session.house is None:
                session.open_house(name, "tiderank up --workers --recipe demo")
            for block in blocks(ROOT / name):
                run_block(session, name, block)
                if not block.said("until"):
                    session.settle()
            session.settle()
            run_inline(session, ROOT / name, name)
        yield from session.results


def main() -> None:
    # Where this is started in the background Ctrl-C is ignored, and would be by all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    results = list(run(sys.argv[1:] or list(DOCUMENTS)))
    by = {kind: sum(result.outcome == kind for result in results) for kind in ("ok", "skipped", "failed")}
    print(", ".join(f"{number} {kind}" for kind, number in by.items()))
    sys.exit(by["failed"] > 0)


if __name__ == "__main__":
    main()
