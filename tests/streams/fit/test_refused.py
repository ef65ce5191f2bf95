"""Files that cannot be learned from: each says what is wrong, and where."""

from pathlib import Path

import pyarrow as pa
import pytest

from tests.ranker.tabular.tables import clicks
from tests.streams.fit.running import fit, refused, run, write


def labelled(labels: list[object], folder: Path) -> Path:
    table = clicks(len(labels)).set_column(3, "click", [labels])
    return write(table, folder / "labels.parquet")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [0, 1, 2],
            "label 'click' must be 0 or 1 in every row; {path} holds [0, 1, 2] and perhaps more, row 3 the first",
        ),
        (
            ["yes", "no", "no"],
            "label 'click' must be 0 or 1 in every row; {path} holds ['yes', 'no'] and perhaps more, row 1 the first",
        ),
        ([0, 1, None], "label 'click' must be 0 or 1 in every row; 1 rows of {path} have none, row 3 the first"),
        ([1, 1, 1], "label 'click' is 1 in every row of {path}: both 0 and 1 are needed"),
    ],
)
def test_labels_that_are_none(values: list[object], message: str, tmp_path: Path) -> None:
    path = labelled(values, tmp_path)
    assert refused("fit", path, "--label", "click") == message.format(path=path)


def test_a_label_that_is_not_there(tmp_path: Path) -> None:
    path = write(clicks(30), tmp_path / "train.parquet")
    message = refused("fit", path, "--label", "bought")
    assert message == f"{path} has no column 'bought' for the label; it has ['user', 'genre', 'price', 'click']"


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
class TestFiles:
    def test_none(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"none{suffix}"
        assert refused("fit", path, "--label", "click") == f"no file at {path}"

    def test_empty(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"empty{suffix}"
        path.touch()
        assert refused("fit", path, "--label", "click") == f"{path} is empty"

    def test_no_rows(self, suffix: str, tmp_path: Path) -> None:
        path = write(clicks(10).slice(0, 0), tmp_path / f"header{suffix}")
        assert refused("fit", path, "--label", "click") == f"{path} has columns and no rows"

    def test_a_directory(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"folder{suffix}"
        path.mkdir()
        assert refused("fit", path, "--label", "click") == f"{path} is a directory: give one file"

    def test_unreadable(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"torn{suffix}"
        path.write_bytes(b'a,b\n1,2\n3,4,"5\n\xff')
        assert refused("fit", path, "--label", "a").startswith(f"{path} cannot be read: ")


def test_a_directory_or_file_of_another_kind(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "train.xlsx"):
        assert refused("fit", path, "--label", "click").startswith("a table is a .parquet or .csv file")


def test_validation_that_lacks_a_column_or_a_class(tmp_path: Path) -> None:
    train = write(clicks(100), tmp_path / "train.parquet")
    less = write(clicks(50).drop_columns(["user"]), tmp_path / "less.parquet")
    assert refused("fit", train, "--valid", less, "--label", "click").startswith(f"{less}: the table lacks columns")
    ones = labelled([1] * 50, tmp_path)
    assert "both 0 and 1 are needed" in refused("fit", train, "--valid", ones, "--label", "click")


def test_columns_that_validation_alone_has_are_left_aside_and_said(tmp_path: Path) -> None:
    train = write(clicks(100), tmp_path / "train.parquet")
    more = write(clicks(50, seed=1).append_column("note", [["x"] * 50]), tmp_path / "more.parquet")
    result = run("fit", train, "--valid", more, "--label", "click", "--epochs-max", 1)
    assert f"{more}: columns ['note'] are not in {train}, and left aside" in result.stdout


def test_too_few_rows_to_hold_any_out(tmp_path: Path) -> None:
    path = write(clicks(6), tmp_path / "few.parquet")
    assert "too small to hold rows out of it" in refused("fit", path, "--label", "click")


def test_an_id_of_the_rows_and_a_constant_are_dropped_with_a_warning(tmp_path: Path) -> None:
    table = clicks(300).append_column("request", [[f"r{i}" for i in range(300)]]).append_column("one", [["1"] * 300])
    path = write(table, tmp_path / "train.parquet")
    result = run("fit", path, "--label", "click", "--epochs-max", 1)
    assert "warning: 300 categories in 300 rows: an id of the rows, which could only be memorized" in result.stdout
    assert "warning: constant" in result.stdout
    plain = fit(write(clicks(300), tmp_path / "plain.parquet"))
    assert fit(path)["auc"] == plain["auc"]


def test_only_useless_columns(tmp_path: Path) -> None:
    path = write(pa.table({"one": ["x"] * 300, "click": [0, 1] * 150}), tmp_path / "train.parquet")
    assert refused("fit", path, "--label", "click") == f"{path}: no column is left to learn from (one: constant)"
