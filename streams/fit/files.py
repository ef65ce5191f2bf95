"""The files of a fit: which they are, labels out of a column, predictions back."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streams.datasets.addresses import FORMATS
from streams.datasets.options import TableOptions
from streams.errors import StartError, one_line

if TYPE_CHECKING:
    from torch import Tensor

HELD_OUT = 0.1
"""Share of TRAIN that validates where no file does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitFiles:
    """What is fitted to what."""

    train: str
    """Address of a table: a path, or a URL that fsspec can open; so are the next two."""
    valid: str | None = None
    test: str | None = None
    label: str
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    min_count: int = 2
    """Categories seen less often in training share one embedding row, which an unseen one reads too."""
    buckets: int = 32
    """Quantiles that a number is embedded by, beside its value."""
    options: TableOptions = TableOptions()
    """How all of them are read."""


def labels(table: Any, column: str, path: str, *, both: bool) -> "Tensor":
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
        raise StartError(
            f"label {column!r} must be 0 or 1 in every row; {values.null_count} rows of {path} have none, "
            f"row {1 + pc.index(pc.is_null(values), value=True).as_py()} the first"
        )
    try:
        label_N = values.cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        label_N = np.full(len(values), np.nan)
    wrong_N = ~np.isin(label_N, (0.0, 1.0))
    if wrong_N.any():
        some = values.slice(0, 5).to_pylist() if pa.types.is_nested(values.type) else pc.unique(values)[:5].to_pylist()
        raise StartError(
            f"label {column!r} must be 0 or 1 in every row; {path} holds {some} and perhaps more, "
            f"row {1 + wrong_N.argmax()} the first"
        )
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
        raise StartError(f"{path} cannot be written: {one_line(error)}") from error
    finally:
        draft.unlink(missing_ok=True)
