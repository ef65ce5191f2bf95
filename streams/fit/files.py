"""Tables of files: Parquet and CSV in, labels out of a column, predictions back."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streams.errors import StartError

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = (".parquet", ".csv")


def read_table(path: Path, *, text: Collection[str] = ()) -> Any:
    """The file as a pyarrow.Table of at least one row; the columns `text` of a CSV file are read as strings.

    Raises StartError where it is no readable file of one of FORMATS, or is empty.
    """
    arrow = _arrow()
    if path.suffix not in FORMATS:
        raise StartError(f"a table is a {' or '.join(FORMATS)} file, got {path.name!r}")
    if not path.exists():
        raise StartError(f"no file at {path}")
    if path.is_dir():
        raise StartError(f"{path} is a directory: give one file")
    if not path.stat().st_size:
        raise StartError(f"{path} is empty")
    try:
        table = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path, text)
        names = table.column_names  # decoded here
    except UnicodeDecodeError as error:
        raise StartError(f"{path} is not UTF-8: convert it, or read it by another tool and write Parquet") from error
    except (arrow.ArrowException, OSError) as error:
        raise StartError(f"{path} cannot be read: {_one_line(error)}") from error
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StartError(f"{path}: column names must be unique, got several of {twice}")
    if path.suffix == ".csv" and (binary := [f.name for f in table.schema if arrow.types.is_binary(f.type)]):
        raise StartError(f"{path}: columns {binary} are not UTF-8: convert the file, or write it as Parquet")
    if not table.num_rows:
        raise StartError(f"{path} has columns and no rows")
    return table


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
    arrow = _arrow()
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
    except (arrow.ArrowException, OSError) as error:
        raise StartError(f"{path} cannot be written: {_one_line(error)}") from error
    finally:
        draft.unlink(missing_ok=True)


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path).read()


def _read_csv(path: Path, text: Collection[str]) -> Any:
    import pyarrow as pa
    import pyarrow.csv

    options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(text, pa.string()))
    return pyarrow.csv.read_csv(path, convert_options=options)


def _arrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise StartError("tables need pyarrow: pip install 'tiderank[tables]'") from error
    return pyarrow


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
