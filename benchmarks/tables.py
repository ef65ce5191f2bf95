"""Renders the tables of docs/results from the figures that are kept beside them.

    python -m benchmarks.tables

The figures of a page docs/results/NAME.md stand in NAME.json: {"tables": {TABLE: {"command", "date", "machine",
"columns", "rows"}}}. On the page, what stands between `<!-- table: TABLE -->` and `<!-- end -->` is written anew: the
command, the date and what differs from the usual machine, then the rows. A number is shown digit by digit as it stands
in the file. Several commands have "; " between them; a word of capitals in one is the row's own, of the column that is
called so. Prints the pages that changed.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs" / "results"
MARK = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end -->", re.DOTALL)

Cell = int | Decimal | str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    command: str
    date: str
    """Day, in UTC, on which the figures came into the repository."""
    machine: str | None
    """What is not as the front page says: the machine, or what else it did."""
    columns: list[str]
    rows: list[list[Cell]]

    def commands(self) -> list[str]:
        return self.command.split("; ")

    def text(self) -> str:
        """Returns Markdown. Raises ValueError where a row has not a cell for each column."""
        short = [row for row in self.rows if len(row) != len(self.columns)]
        if short:
            raise ValueError(f"a row needs {len(self.columns)} cells, one for each of {self.columns}; got {short[0]}")
        said = [*(f"`{command}`" for command in self.commands()), self.date, *([self.machine] if self.machine else [])]
        lines = [self.columns, ["---"] * len(self.columns), *([shown(cell) for cell in row] for row in self.rows)]
        return "\n".join([", ".join(said), "", *(f"| {' | '.join(line)} |" for line in lines)])


def shown(cell: Cell) -> str:
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else f"{cell:,}".replace("-", "−")


def tables(page: Path) -> dict[str, Table]:
    """Reads the page's tables, by name; none where it has no file of figures."""
    figures = page.with_suffix(".json")
    if not figures.exists():
        return {}
    return {
        name: Table(**table) for name, table in json.loads(figures.read_text(), parse_float=Decimal)["tables"].items()
    }


def rendered(page: Path) -> str:
    """Returns the page with its tables as they should be. Raises ValueError for one that has no figures."""
    known = tables(page)

    def one(mark: re.Match[str]) -> str:
        if mark[1] not in known:
            raise ValueError(f"{page.name}: no table {mark[1]} in {page.stem}.json, which has {sorted(known)}")
        return f"<!-- table: {mark[1]} -->\n\n{known[mark[1]].text()}\n\n<!-- end -->"

    return MARK.sub(one, page.read_text())


def changed() -> Iterator[tuple[Path, str]]:
    """Yields each page that is not as it should be, with the text that it should have."""
    for page in sorted(PAGES.glob("*.md")):
        text = rendered(page)
        if text != page.read_text():
            yield page, text


def main() -> None:
    for page, text in changed():
        page.write_text(text)
        print(page.name)


if __name__ == "__main__":
    main()
