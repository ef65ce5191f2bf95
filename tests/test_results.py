"""The results: pages are what their figures say, and each figure has a command that exists, a date and a page."""

import re
import shlex
from datetime import date
from pathlib import Path

import click
import pytest

from benchmarks.tables import MARK, PAGES, Table, changed, rendered, tables
from streams.cli import cli

ROOT = Path(__file__).parent.parent
FRONT = ROOT / "docs" / "results.md"
NAMES = sorted(page.stem for page in PAGES.glob("*.md"))
TABLES = [(page, name, table) for page in NAMES for name, table in tables(PAGES / f"{page}.md").items()]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
COLUMNS = ["claim", "aim", "measured", "rival", "command", "date", "page"]


def claims() -> list[dict[str, str]]:
    """Rows of the front table, by column."""
    lines = [line for line in FRONT.read_text().splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    assert head == COLUMNS
    return [dict(zip(head, row, strict=True)) for row in rows]


def fault(command: str, columns: list[str]) -> str | None:
    """What of a command is not there; options of benchmarks and of tiderank are for tests/test_documents.py."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    match words:
        case ["python", "-m", module, *_]:
            paths = [f"{module.replace('.', '/')}.py"]
        case ["python", "-X", "importtime", "-c", _]:
            return None
        case ["tiderank", name, *_]:
            return None if name in cli.list_commands(click.Context(cli)) else f"no command {name}"
        case ["pytest", *rest]:
            paths = [word for word in rest if not word.startswith("-") and word not in columns]
        case ["make", target]:
            return None if target in TARGETS else f"no target {target}"
        case ["bash", path]:
            paths = [path]
        case _:
            return f"what is {command}?"
    missing = [path for path in paths if not (ROOT / path).exists()]
    return f"no {missing}" if missing else None


def test_pages_are_current() -> None:
    assert [page.name for page, _ in changed()] == [], "python -m benchmarks.tables writes them"


@pytest.mark.parametrize(("page", "name", "table"), TABLES, ids=[f"{page}-{name}" for page, name, _ in TABLES])
def test_a_table_says_how_and_when_it_was_measured(page: str, name: str, table: Table) -> None:
    assert [fault(command, table.columns) for command in table.commands()] == [None] * len(table.commands())
    assert date.fromisoformat(table.date).isoformat() == table.date
    assert len(set(table.columns)) == len(table.columns)
    assert table.rows


@pytest.mark.parametrize("page", NAMES)
def test_each_table_of_the_figures_stands_on_the_page_once(page: str) -> None:
    marks = [mark[1] for mark in MARK.finditer((PAGES / f"{page}.md").read_text())]
    assert sorted(marks) == sorted(tables(PAGES / f"{page}.md"))


def test_each_page_has_a_claim_on_the_front_and_each_claim_a_page() -> None:
    linked = [re.fullmatch(r"\[.+\]\(results/([a-z-]+)\.md(?:#.+)?\)", claim["page"]) for claim in claims()]
    assert {link[1] for link in linked if link} == set(NAMES)
    assert None not in linked
    assert {figures.stem for figures in PAGES.glob("*.json")} <= set(NAMES)


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim["claim"][:40])
def test_a_claim_is_whole(claim: dict[str, str]) -> None:
    assert all(claim.values()), "an aim that nobody set is a dash, a rival that nobody measured is none"
    assert date.fromisoformat(claim["date"]).isoformat() == claim["date"]
    commands = re.findall(r"`(.+?)`", claim["command"])
    assert commands
    assert [fault(command, []) for command in commands] == [None] * len(commands)


@pytest.mark.parametrize(
    "command", ["python -m benchmarks.no_such", "tiderank no-such", "pytest tests/no_such.py", "make no-such", "ls"]
)
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    assert fault(command, ["TEST"]) is not None


def test_a_table_is_rendered_digit_by_digit(tmp_path: Path) -> None:
    page = tmp_path / "it.md"
    page.write_text("before\n<!-- table: one -->\nold\n<!-- end -->\nafter\n")
    fields = '"command": "make a; make b", "date": "2026-11-22", "machine": "at load 4", "columns": ["a", "b"]'
    page.with_suffix(".json").write_text(
        f'{{"tables": {{"one": {{{fields}, "rows": [[-0.10, 12345], [null, "x"]]}}}}}}'
    )
    table = "| a | b |\n| --- | --- |\n| −0.10 | 12,345 |\n|  | x |"
    said = (
        f"before\n<!-- table: one -->\n\n`make a`, `make b`, 2026-11-22, at load 4\n\n{table}\n\n<!-- end -->\nafter\n"
    )
    assert rendered(page) == said
    page.write_text(said)
    assert rendered(page) == said


def test_a_table_without_figures_and_a_short_row_are_errors(tmp_path: Path) -> None:
    page = tmp_path / "it.md"
    page.write_text("<!-- table: one -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match=r"it\.md: no table one"):
        rendered(page)
    short = Table(command="make a", date="2026-11-22", machine=None, columns=["a", "b"], rows=[[1]])
    with pytest.raises(ValueError, match="2 cells"):
        short.text()
