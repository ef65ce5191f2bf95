"""`tiderank fit` and `tiderank score`, called as on the command line."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from streams.cli import cli
from streams.errors import StartError
from tests.ranker.tabular.tables import clicks


def run(*arguments: object) -> Result:
    """Standard output and error apart; an error that a person can mend is raised, as for the entry point."""
    return CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False, catch_exceptions=False)


def fit(*arguments: object) -> dict[str, Any]:
    """A short fit; what --json printed last."""
    result = run("fit", *arguments, "--label", "click", "--epochs-max", 2, "--json")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def refused(*arguments: object) -> str:
    with pytest.raises(StartError) as error:
        run(*arguments)
    return str(error.value)


def write(table: pa.Table, path: Path) -> Path:
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def files(folder: Path, suffix: str = ".parquet") -> list[Path]:
    """Train, validation and test."""
    sizes = {"train": 1500, "valid": 400, "test": 400}
    return [write(clicks(n, seed=i), folder / f"{name}{suffix}") for i, (name, n) in enumerate(sizes.items())]
