"""Files as people have them: each command reads each as what it means, or says in a line why it does not."""

import re
from pathlib import Path

import pytest

from benchmarks.lab.odd_tables import Case, cases
from benchmarks.odd_files import COMMANDS, OddFiles

ALL = ("fit", "score", "plan-embeddings", "replay")
LABELLED = ("fit", "score", "replay")
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "fixed-size binary": (ALL, r"typed.parquet: column 'user' is of type fixed_size_binary\[16\], .* write it as text"),
    "binary": (ALL, "typed.parquet: column 'user' is of type binary, .* write it as text"),
    "struct": (ALL, "typed.parquet: column 'user' is of type struct<id: string>, .* flatten it"),
    "label NaN": (LABELLED, "(label|row 1: column) 'click' .* row"),
    "label nan, CSV": (LABELLED, "(label|row 1: column) 'click' .* row"),
    "time inf": (("replay",), "inf.csv: row 11: column 'ts' holds 'inf'"),
    "ragged": (ALL, "ragged.csv cannot be read: .* row 200: Expected 6 columns, got 7"),
    "UTF-16 without a mark": (ALL, "utf16le.csv holds NUL bytes, as UTF-16.*--encoding"),
    "Latin-1": (ALL, "latin.csv is not UTF-8: column 'user', row 1.*--encoding"),
    "gzip, torn": (ALL, "torn.csv.gz cannot be read: Truncated compressed stream"),
    "xz named .csv": (ALL, "xz.csv is packed by xz: unpack it"),
    "zip named .csv": (ALL, "zip.csv is a zip archive or a spreadsheet: unpack it"),
    "CSV named .parquet": (ALL, "text.parquet cannot be read: Parquet magic bytes not found"),
    "headings twice": (ALL, r"twice.csv: column names must be unique, got several of \['item'\]"),
    "s3:// without its package": (ALL, "s3://bucket/odd.csv needs a package .* s3fs"),
    "ms under a unit of s": (("replay",), "row 1: column 'ts' .* as milliseconds .* say time_unit = \"ms\""),
}
"""By case: the commands that refuse it, and the words. All else is read as its twin is."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> OddFiles:
    return OddFiles(tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_each_command_reads_it_as_its_twin_or_says_why_not(case: Case, files: OddFiles) -> None:
    commands, words = REFUSED.get(case.name, ((), ""))
    for command in COMMANDS:
        outcome = files.outcome(case, command)
        if command in commands:
            assert re.match(f"refused: .*{words}", outcome), (command, outcome)
        else:
            assert outcome == "read", command


def test_a_file_that_is_misread_is_told(tmp_path: Path) -> None:
    one, other = cases()[0], next(case for case in cases() if case.name == "null words")
    wrong = Case(name="wrong", write=other.write, twin=one.twin)
    outcomes = [OddFiles(tmp_path).outcome(wrong, command) for command in ("score", "replay")]
    assert all(outcome.startswith("WRONG: 43 rows differ") for outcome in outcomes), outcomes
