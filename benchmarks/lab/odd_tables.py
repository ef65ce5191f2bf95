"""Files as people have them: each an odd form of a plain table, which every reader must read as that, or refuse.

A case writes its file into a folder and names it; its twin is the plain table that the file means.
"""

import bz2
import csv
import gzip
import io
import lzma
import uuid
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 300
USERS = [str(uuid.UUID(int=(k + 1) * 0x0123_4567_89AB_CDEF_0123_4567_89AB)) for k in range(12)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An odd file."""

    name: str
    write: Callable[[Path], str]
    """Writes the file into a folder and returns its address."""
    twin: Any
    """The pyarrow.Table that the file means, of plain types."""
    options: tuple[str, ...] = ()
    """What a person says to a command about the file."""
    mapping: str = ""
    """The same, as lines of a mapping."""


def base() -> Any:
    """Columns that fit, score, plan-embeddings and replay all know what to do with."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 12, ROWS), rng.integers(0, 8, ROWS)
    day = [datetime(2024, 1, 1) + timedelta(hours=int(h)) for h in rng.integers(0, 5000, ROWS)]
    return pa.table(
        {
            "user": [USERS[u] for u in user],
            "item": pa.array(item),
            "ts": pa.array(1_700_000_000 + 30 * np.arange(ROWS)),
            "price": rng.integers(4, 400, ROWS) / 4,
            "day": pa.array(day, pa.timestamp("us")),
            "click": (rng.random(ROWS) < np.where((user + item) % 2, 0.8, 0.2)).astype(int),
        }
    )


def change(table: Any, name: str, values: Any) -> Any:
    """The table with other values in that column, which is added where it is not there."""
    index = table.column_names.index(name) if name in table.column_names else -1
    return table.append_column(name, [values]) if index < 0 else table.set_column(index, name, [values])


def some_null(table: Any, name: str) -> Any:
    """The table with each seventh value of a column missing."""
    values = table[name].to_pylist()
    return change(table, name, pa.array([None if i % 7 == 0 else v for i, v in enumerate(values)]))


def parquet(name: str, table: Any, **options: Any) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        pq.write_table(table, folder / f"{name}.parquet", **options)
        return str(folder / f"{name}.parquet")

    return write


def text(table: Any, *, null: Sequence[str] = ("",)) -> str:
    """The table as CSV; the null words take turns."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(table.column_names)
    for i, row in enumerate(table.to_pylist()):
        rows.writerow([null[i % len(null)] if value is None else value for value in row.values()])
    return file.getvalue()


def raw(name: str, content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return write


def in_memory(name: str, content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        with fsspec.open(f"memory://odd/{name}", "wb") as file:
            file.write(content)
        return f"memory://odd/{name}"

    return write


def _typed() -> list[Case]:
    plain = base()
    users, prices = plain["user"].to_pylist(), plain["price"].to_pylist()
    far = [datetime(9999, 12, 31) if i % 9 == 0 else d for i, d in enumerate(plain["day"].to_pylist())]
    days = change(plain, "day", pa.array(far, pa.timestamp("us")))
    hashes = [2**64 - 1 - item for item in plain["item"].to_pylist()]
    exact = change(plain, "item", pa.array([str(h) for h in hashes]))
    uuids = pa.array([uuid.UUID(u).bytes for u in users], pa.uuid())
    kinds: list[tuple[str, str, Any, Any]] = [
        ("string_view (Polars)", "user", pa.array(users, pa.string_view()), plain),
        ("large_string", "user", pa.array(users, pa.large_string()), plain),
        ("dictionary", "user", pa.array(users).dictionary_encode(), plain),
        ("UUID", "user", uuids, plain),
        ("fixed-size binary", "user", pa.array([uuid.UUID(u).bytes for u in users], pa.binary(16)), plain),
        ("binary", "user", pa.array([u.encode() for u in users], pa.binary()), plain),
        ("decimals", "price", pa.array([Decimal(str(p)) for p in prices], pa.decimal128(10, 2)), plain),
        ("decimal ids of 20 digits", "item", pa.array([Decimal(h) for h in hashes], pa.decimal128(38, 0)), exact),
        ("uint64 hashes", "item", pa.array(hashes, pa.uint64()), exact),
        ("half floats", "price", pa.array(np.array(prices, np.float16)), plain),
        ("float ids", "item", plain["item"].cast(pa.float64()).combine_chunks(), plain),
        ("boolean label", "click", plain["click"].cast(pa.bool_()).combine_chunks(), plain),
        ("label NaN", "click", pa.array([float("nan")] + [0.0, 1.0] * (ROWS // 2))[:ROWS], plain),
        ("struct", "user", pa.array([{"id": u} for u in users]), plain),
    ]
    cases = [
        Case(name=name, write=parquet("typed", change(plain, column, values)), twin=twin)
        for name, column, values, twin in kinds
    ]
    old = parquet("int96", days, use_deprecated_int96_timestamps=True)
    beside = parquet("ignored", change(plain, "raw", uuids.cast(pa.binary(16))))
    return [
        *cases,
        Case(name="INT96, the year 9999", write=old, twin=days, mapping='context_columns = ["day"]'),
        Case(name="binary beside, ignored", write=beside, twin=plain, options=("--ignore", "raw")),
    ]


def _csv() -> list[Case]:
    plain = base()
    content = text(plain)
    holes = some_null(plain, "price")
    floats = change(plain, "item", plain["item"].cast(pa.float64()).combine_chunks())
    noted = change(plain, "note", pa.array([f"a\n{'é' * 3_000}\n{i % 5}" for i in range(ROWS)]))
    coded = change(noted, "code", pa.array(["7"] * (ROWS - 1) + ["x7"]))
    swedish = change(plain, "user", pa.array([f"é{u}" for u in plain["user"].to_pylist()]))
    late = content.splitlines()
    late[200] = late[200].replace(",17000", ",nan,17000")
    infinite = content.replace("1700000300", "inf")
    timeless = change(plain, "ts", pa.array([None if i == 10 else t for i, t in enumerate(plain["ts"].to_pylist())]))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("odd.csv", content)
    files: list[tuple[str, str, bytes, Any]] = [
        ("byte order mark", "bom.csv", content.encode("utf-8-sig"), plain),
        ("null words", "words.csv", text(holes, null=("\\N", "None", "NULL", "null", "NA", "nan", "")).encode(), holes),
        ("float ids, CSV", "floats.csv", text(floats).encode(), plain),
        ("quoted newlines, blocks", "newlines.csv", text(noted).encode(), noted),
        ("numbers, then text", "codes.csv", text(coded).encode(), coded),
        ("label nan, CSV", "nan.csv", text(plain).replace(",1\n", ",nan\n", 1).encode(), plain),
        ("time inf", "inf.csv", infinite.encode(), timeless),
        ("ragged", "ragged.csv", "\n".join(late).encode(), plain),
        ("UTF-16", "utf16.csv", content.encode("utf-16"), plain),
        ("UTF-16 without a mark", "utf16le.csv", content.encode("utf-16-le"), plain),
        ("Latin-1", "latin.csv", text(swedish).encode("latin-1"), swedish),
        ("gzip", "odd.csv.gz", gzip.compress(content.encode()), plain),
        ("gzip named .csv", "gzip.csv", gzip.compress(content.encode()), plain),
        ("gzip, torn", "torn.csv.gz", gzip.compress(content.encode())[:-20], plain),
        ("bzip2", "odd.csv.bz2", bz2.compress(content.encode()), plain),
        ("zstd", "odd.csv.zst", pa.compress(content.encode(), "zstd", asbytes=True), plain),
        ("xz named .csv", "xz.csv", lzma.compress(content.encode()), plain),
        ("zip named .csv", "zip.csv", zipped.getvalue(), plain),
        ("CSV named .parquet", "text.parquet", content.encode(), plain),
        ("headings twice", "twice.csv", content.replace("user,item", "item,item", 1).encode(), plain),
    ]
    latin = raw("said.csv", text(swedish).encode("latin-1"))
    dashes = raw("dashes.csv", text(holes, null=("--",)).encode())
    return [
        *(Case(name=name, write=raw(file, data), twin=twin) for name, file, data, twin in files),
        Case(
            name="Latin-1, said",
            write=latin,
            twin=swedish,
            options=("--encoding", "latin-1"),
            mapping='encoding = "latin-1"',
        ),
        Case(
            name="a null word, said", write=dashes, twin=holes, options=("--null", "--"), mapping='null_words = ["--"]'
        ),
        Case(name="memory://", write=in_memory("plain.csv", content.encode()), twin=plain),
        Case(name="s3:// without its package", write=lambda folder: "s3://bucket/odd.csv", twin=plain),
    ]


def _times() -> list[Case]:
    plain = base()
    ms = change(plain, "ts", pa.array(np.asarray(plain["ts"]) * 1000))
    stamps = change(plain, "ts", pa.array(np.asarray(plain["ts"]), pa.timestamp("s")))
    return [
        Case(name="ms under a unit of s", write=parquet("ms", ms), twin=ms),
        Case(name="timestamps under a unit of s", write=parquet("stamps", stamps), twin=stamps),
    ]


def cases() -> list[Case]:
    return [*_typed(), *_csv(), *_times()]
