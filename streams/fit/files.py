"""The files of a fit: tables in, as Parquet or CSV, labels out of a column, predictions back."""

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streams.errors import StartError

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = (".parquet", ".csv")
HELD_OUT = 0.1
"""Share of TRAIN that validates where no file does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitFiles:
    """What is fitted to what."""

    train: Path
    valid: Path | None = None
    test: Path | None = None
    label: str
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    min_count: int = 2
    """Categories seen less often in training share one embedding row, which an unseen one reads too."""
    buckets: int = 32
    """Quantiles that a number is embedded by, beside its value."""


def read_table(path: Path, *, text: Collection[str] = ()) -> Any:
    """The file as a pyarrow.Table of at least one row; the columns `text` of a CSV file are read as strings.

    Raises StartError where it is no readable file of one of FORMATS, or is empty.
    """
    arrow = check_file(path)
    from ranker.tabular.columns import check_unique

    with reading(path):
        table = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path, text)
        check_unique(table.column_names)
    if path.suffix == ".csv":
        if binary := [f.name for f in table.schema if arrow.types.is_binary(f.type)]:
            raise StartError(f"{path}: columns {binary} are not UTF-8: convert the file, or write it as Parquet")
        table = _with_exact_integers(table, path)
    if not table.num_rows:
        raise StartError(f"{path} has columns and no rows")
    return table


def check_file(path: Path) -> Any:
    """The module pyarrow. Raises StartError where it is missing, or the path is no file of one of FORMATS, or empty."""
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise StartError("tables need pyarrow: pip install 'tiderank[tables]'") from error
    if path.suffix not in FORMATS:
        raise StartError(f"a table is a {' or '.join(FORMATS)} file, got {path.name!r}")
    if not path.exists():
        raise StartError(f"no file at {path}")
    if path.is_dir():
        raise StartError(f"{path} is a directory: give one file")
    if not path.stat().st_size:
        raise StartError(f"{path} is empty")
    return pyarrow


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises StartError for what a person must mend: the file's bytes or, by a ValueError, what it holds."""
    from pyarrow import ArrowException

    try:
        yield
    except UnicodeDecodeError as error:
        raise StartError(f"{path} is not UTF-8: convert it, or read it by another tool and write Parquet") from error
    except (ArrowException, OSError) as error:
        raise StartError(f"{path} cannot be read: {_one_line(error)}; mend it, or write it anew") from error
    except ValueError as error:
        raise StartError(f"{path}: {error}") from error


def labels(table: Any, column: str, path: Path, *, both: bool) -> "Tensor":
    """float32 [n], 0 or 1: from numbers, booleans, or the texts "0" and "1".

    Raises StartError where there is another value, or (with `both`) one class only.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import torch

    if column not in table.column_names:
        raise StartError(f"{path} has no column {column!r} for the label; it has {table.column_names}")
    values = table[column]
    if values.null_count:
        raise StartError(f"label {column!r} must be 0 or 1 in every row; {values.null_count} rows of {path} have none")
    try:
        label_N = values.cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        label_N = np.full(len(values), np.nan)
    if not np.isin(label_N, (0.0, 1.0)).all():
        some = values.slice(0, 5).to_pylist() if pa.types.is_nested(values.type) else pc.unique(values)[:5].to_pylist()
        raise StartError(f"label {column!r} must be 0 or 1 in every row; {path} holds {some} and perhaps more")
    if both and label_N.min() == label_N.max():
        raise StartError(f"label {column!r} is {label_N[0]:.0f} in every row of {path}: both 0 and 1 are needed")
    return torch.from_numpy(label_N.astype(np.float32))


def write_table(table: Any, path: Path) -> None:
    """Whole or not at all: what was at the path stays until all is written.

    Raises StartError for a file that cannot be written, or of another kind.
    """
    from pyarrow import ArrowException

    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        match path.suffix:
            case ".parquet":
                import pyarrow.parquet

                pyarrow.parquet.write_table(table, draft)
            case ".csv":
                import pyarrow.csv

                pyarrow.csv.write_csv(table, draft)
            case _:
                raise StartError(f"scores go to a {' or '.join(FORMATS)} file, got {path.name!r}")
        draft.replace(path)
    except (ArrowException, OSError) as error:
        raise StartError(f"{path} cannot be written: {_one_line(error)}") from error
    finally:
        draft.unlink(missing_ok=True)


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path).read()


def read_batches(path: Path) -> tuple[Any, Iterable[Any]]:
    """Schema and record batches of a file that check_file took; memory holds one batch.

    To be called and iterated within `reading`. A CSV file's types are those of its first block.
    """
    import pyarrow.csv
    import pyarrow.parquet

    from ranker.tabular.columns import check_unique, lost_digits

    if path.suffix == ".parquet":
        file = pyarrow.parquet.ParquetFile(path)
        check_unique(file.schema_arrow.names)
        return file.schema_arrow, file.iter_batches()
    reader = pyarrow.csv.open_csv(path)
    check_unique(reader.schema.names)
    block = next(iter(reader), None)
    lost = [] if block is None else [name for name in block.schema.names if lost_digits(block[name])]
    reader = pyarrow.csv.open_csv(path, convert_options=_as_text(lost))
    return reader.schema, reader


def _read_csv(path: Path, text: Collection[str], **options: Any) -> Any:
    import pyarrow.csv

    return pyarrow.csv.read_csv(path, convert_options=_as_text(text, **options))


def _as_text(columns: Collection[str], **options: Any) -> Any:
    import pyarrow as pa
    import pyarrow.csv

    return pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), **options)


def _with_exact_integers(table: Any, path: Path) -> Any:
    """Of a CSV file: integers that int64 does not hold, which Arrow takes for floats, as the text that they are."""
    import pyarrow.compute as pc

    from ranker.tabular.columns import lost_digits

    if lost := [name for name in table.column_names if lost_digits(table[name])]:
        again = _read_csv(path, lost, include_columns=lost, strings_can_be_null=True)
        for name in lost:
            if pc.all(pc.match_substring_regex(again[name], r"^-?\d+$")).as_py():
                table = table.set_column(table.column_names.index(name), name, again[name])
    return table


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
