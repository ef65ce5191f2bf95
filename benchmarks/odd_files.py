"""What does each command make of files as people have them?

    python -m benchmarks.odd_files [--case "string_view (Polars)"]

Rows are files, columns commands. "read": what came of the file is what came of its twin, a plain table of the same
values. "refused": one line for a person. "WRONG" and "CRASH" are faults. Of replay, the reading half. (`tiderank
updates encodings` reads no tables: it samples Kafka or a simulated world.)
"""

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from click.testing import CliRunner

from benchmarks.lab.odd_tables import Case, cases
from streams.cli import cli
from streams.datasets.logs.sources import open_log
from streams.errors import StartError
from streams.tuning.columns import columns

MAPPING = """
user = "user"
item = "item"
time = "ts"
label = "click"
user_columns = ["price"]
numeric_columns = ["price"]
"""
SHORT = ("--label", "click", "--epochs-max", "1", "--tier", "light", "--batch", "64", "--json")
WIDTH = 60
COMMANDS = ("fit", "score", "plan-embeddings", "replay")


class OddFiles:
    """What the commands make of odd files and of their twins, which many share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._twins: dict[tuple[object, ...], tuple[object, str]] = {}

    def outcome(self, case: Case, command: str) -> str:
        """`read`, `refused: …`, `WRONG: …` or `CRASH: …`: what became of the case's file."""
        found, told = self._attempt(command, case.write(self._folder), case)
        if told:
            return told.replace(f"{self._folder}/", "")
        twin = self._twin(case)
        key = (command, str(twin), case.mapping)
        if key not in self._twins:
            self._twins[key] = self._attempt(command, str(twin), replace(case, options=()))
        expected, trouble = self._twins[key]
        if trouble:
            return f"WRONG: read, but its twin is {trouble}"
        return "read" if found == expected else f"WRONG: {_difference(found, expected)}"

    def _attempt(self, command: str, address: str, case: Case) -> tuple[object, str]:
        try:
            return getattr(self, f"_{command.replace('-', '_')}")(address, case), ""
        except (StartError, click.ClickException) as error:
            return None, f"refused: {error if isinstance(error, StartError) else error.format_message()}"
        except ValueError as error:  # the replay command makes a StartError of these
            return None, f"{'refused' if command == 'replay' else 'CRASH: ValueError'}: {error}"
        except Exception as error:
            return None, f"CRASH: {type(error).__name__}: {error}"

    def _twin(self, case: Case) -> Path:
        """The twin's file, one for all twins that are equal."""
        made = pa.BufferOutputStream()
        pq.write_table(case.twin, made)
        path = self._folder / f"{hashlib.blake2b(made.getvalue(), digest_size=8).hexdigest()}.parquet"
        path.write_bytes(made.getvalue())
        return path

    def _fit(self, address: str, case: Case) -> object:
        found = json.loads(_run("fit", address, *SHORT, *case.options).splitlines()[-1])
        return [(c["name"], c["kind"]) for c in found["columns"]], found["history"][0]["valid"]

    def _score(self, address: str, case: Case) -> object:
        twin = self._twin(case)
        model, out = twin.with_suffix(""), self._folder / "scores.parquet"
        if not model.exists():
            _run("fit", str(twin), *SHORT, "--model", str(model))
        options = case.options if "--ignore" not in case.options else ()  # it leaves aside what it does not know
        _run("score", str(model), address, "--out", str(out), "--label", "click", *options)
        return pq.read_table(out, columns=["p"])["p"].to_pylist()

    def _plan_embeddings(self, address: str, case: Case) -> object:
        options = ["--skip" if word == "--ignore" else word for word in case.options]
        chosen = ("--column", "user", "--column", "item")
        found = json.loads(_run("plan-embeddings", "--from", address, *chosen, "--json", *options))
        return {slot["name"]: (slot["distinct"], slot["occurrences"]) for slot in found["slots"]}

    def _replay(self, address: str, case: Case) -> object:
        path = self._folder / "mapping.toml"
        path.write_text(f"{MAPPING}{case.mapping}\n")
        return list(open_log(address, path).read())


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, list) and isinstance(expected, list):
        pairs = [(a, b) for a, b in zip(found, expected, strict=False) if a != b]
        return f"{len(pairs)} rows differ, first {pairs[0]}" if pairs else f"{len(found)} rows for {len(expected)}"
    return f"{found} for {expected}"


def _run(*words: str) -> str:
    torch.set_num_threads(1)
    return CliRunner().invoke(cli, list(words), standalone_mode=False, catch_exceptions=False).stdout


@click.command()
@click.option("--case", "names", multiple=True, help="Only these.")
@click.option("--full", is_flag=True, help="Messages whole, a line each, below the table.")
def main(names: tuple[str, ...], full: bool) -> None:
    rows: list[tuple[str, ...]] = [("file", *COMMANDS)]
    messages: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        files = OddFiles(Path(folder))
        for case in cases():
            if names and case.name not in names:
                continue
            cells = [files.outcome(case, command) for command in COMMANDS]
            rows.append((case.name, *(cell if len(cell) <= WIDTH else f"{cell[:WIDTH]}…" for cell in cells)))
            messages += [f"{case.name}, {command}: {cell}" for command, cell in zip(COMMANDS, cells, strict=True)]
    print(columns(rows, left=len(rows[0])))
    if full:
        print("", *messages, sep="\n")


if __name__ == "__main__":
    main()
