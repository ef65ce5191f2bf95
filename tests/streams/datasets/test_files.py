"""The reader of tables: what it makes of a file, and how it says what is wrong."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streams.datasets.files import read_batches, read_table
from streams.datasets.options import NULL_WORDS, TableOptions
from streams.errors import StartError

BLOCK = 1 << 20


def columns(path: Path, options: TableOptions | None = None, **told: Any) -> list[dict[str, list[Any]]]:
    """The file's columns, read whole and in batches."""
    options = options or TableOptions()
    whole = read_table(str(path), options, **told).to_pydict()
    _, batches = read_batches(str(path), options, **told)
    return [whole, pa.Table.from_batches(list(batches)).to_pydict()]


def refused(path: Path, options: TableOptions | None = None) -> list[str]:
    """What reading it whole says, and in batches."""
    messages = []
    for read in (read_table, lambda *words: list(read_batches(*words)[1])):
        with pytest.raises(StartError) as error:
            read(str(path), options or TableOptions())
        messages.append(str(error.value))
    return messages


def test_newlines_in_quotes_may_stand_anywhere(tmp_path: Path) -> None:
    notes = [f"{i}\n{'x' * 9_000}\n\n" for i in range(3 * BLOCK // 9_000)]
    path = tmp_path / "notes.csv"
    path.write_text("note,n\n" + "".join(f'"{note}",{i}\n' for i, note in enumerate(notes)))
    for found in columns(path):
        assert found == {"note": notes, "n": list(range(len(notes)))}


@pytest.mark.parametrize("word", ["", *NULL_WORDS])
def test_words_for_null_are_null_in_numbers_and_text(word: str, tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text(f"x,name\n1.5,a\n{word},{word}\n")
    for found in columns(path):
        assert found == {"x": [1.5, None], "name": ["a", None]}
    pq.write_table(pa.table({"name": ["a", word]}), tmp_path / "words.parquet")
    assert read_table(str(tmp_path / "words.parquet"))["name"].to_pylist() == ["a", None if word else ""]


def test_words_that_are_said_take_the_place_of_the_usual_ones(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("x,country\n1,NA\n-,\n")
    for found in columns(path, TableOptions(null_words=("-",))):
        assert found == {"x": [1, None], "country": ["NA", None]}


def test_an_error_names_the_column_and_the_row_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    rows = BLOCK // 2
    path.write_text("a,b\n" + "1,2\n" * rows + "1,2,3\n")
    for message in refused(path):
        assert message.startswith(f"{path} cannot be read: CSV parse error: row {rows + 1}: Expected 2 columns, got 3")
    path.write_bytes(b"a,b\n" + b"1,x\n" * rows + b"1,\xe9\n")
    for message in refused(path):
        assert message.startswith(f"{path} is not UTF-8: column 'b', row {rows + 1}")
        assert "--encoding" in message


def test_a_heading_of_another_encoding_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "head.csv"
    path.write_bytes("é,b\n1,2\n".encode("latin-1"))
    for message in refused(path):
        assert message.startswith(f"{path} is not UTF-8: ")
        assert "--encoding" in message
    for found in columns(path, TableOptions(encoding="latin-1")):
        assert found == {"é": [1], "b": [2]}


def test_an_encoding_that_is_said_and_wrong(tmp_path: Path) -> None:
    path = tmp_path / "not_ascii.csv"
    path.write_text("a,b\né,2\n")
    for message in refused(path, TableOptions(encoding="ascii")):
        assert message.startswith(f"{path} is not ascii")
    with pytest.raises(ValueError, match="encoding must be one that Python knows, got 'latin-99'"):
        TableOptions(encoding="latin-99")


def test_dates_that_int96_holds_and_nanoseconds_do_not(tmp_path: Path) -> None:
    path = tmp_path / "int96.parquet"
    days = pa.array([253_402_214_400_000_000, -62_135_596_800_000_000], pa.timestamp("us"))  # 9999-12-31, 0001-01-01
    pq.write_table(pa.table({"day": days}), path, use_deprecated_int96_timestamps=True)
    for found in columns(path):
        assert [str(day)[:10] for day in found["day"]] == ["9999-12-31", "0001-01-01"]


def test_a_column_that_cannot_be_made_plain_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "raw.parquet"
    pq.write_table(pa.table({"raw": pa.array([b"\xff"]), "word": pa.array(["a"], pa.string_view())}), path)
    assert read_table(str(path)).schema.types == [pa.binary(), pa.string()]


def test_a_file_that_unpacks_to_nothing_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv.gz"
    path.write_bytes(gzip.compress(b""))
    assert refused(path) == [f"{path} is empty"] * 2


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://nowhere/a.csv", "no file at memory://nowhere/a.csv"),
        ("nothing://a.csv", "nothing://a.csv must be a path or a URL that fsspec can open: Protocol not known"),
        ("file:///nowhere/a.parquet", "no file at file:///nowhere/a.parquet"),
    ],
)
def test_an_address_that_leads_nowhere(address: str, message: str) -> None:
    with pytest.raises(StartError) as error:
        read_table(address)
    assert str(error.value).startswith(message)


def test_a_url_of_a_file_is_read_as_its_path_is(tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet"):
        path = tmp_path / f"a{suffix}"
        path.write_text("x\n1\n") if suffix == ".csv" else pq.write_table(pa.table({"x": [1]}), path)
        assert read_table(f"file://{path}").to_pydict() == {"x": [1]}


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_batches_hold_some_blocks_and_not_the_file(packing: str, tmp_path: Path) -> None:
    path = tmp_path / f"long.csv{packing}"
    with (gzip.open if packing else open)(path, "wb") as file:
        file.write(b"a,b\n")
        for _ in range(120):
            file.write(b"12345,some words\n" * (BLOCK // 17))
    held = pa.total_allocated_bytes()
    rows, most = 0, 0
    for batch in read_batches(str(path))[1]:
        rows += batch.num_rows
        most = max(most, pa.total_allocated_bytes() - held)
    assert rows == 120 * (BLOCK // 17)
    assert most < 60 * BLOCK  # Arrow reads some thirty ahead
