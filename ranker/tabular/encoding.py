"""A table once as arrays: rows of embedding tables and standardized numbers.

A categorical column is a slot. Its table has a row for each category seen often enough in training, behind them one
that the rare ones share, which is also what an unseen category reads: so it is trained.

A numeric column is two inputs. Standardized it is a dense feature, 0 where missing; by its quantile among the training
rows it is a slot too, whose table has a row for each bucket and one for missing: the model sees what a line cannot say.
"""

# N rows of the table, S slots, F numeric columns.

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ranker.arrays import F64
from ranker.config import Slot, TableConfig
from ranker.tabular.columns import HUGE, Found, numbers, texts
from ranker.tabular.plain import plain

MISSING = 0
"""Row of a missing value, in every slot's table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Categorical:
    """A column of categories; category i of the vocabulary has row 1 + i."""

    name: str
    vocabulary: list[str]
    """Most frequent first."""
    text: bool
    """The training file held strings, so digits are to be read as text."""

    @property
    def rows(self) -> int:
        """With a key of their own: missing, and the vocabulary. The one behind them is for rare and unseen."""
        return 1 + len(self.vocabulary)


@dataclass(frozen=True, kw_only=True, slots=True)
class Numeric:
    """A column of numbers."""

    name: str
    mean: float
    std: float
    edges: list[float]
    """Ascending; bucket i holds edges[i - 1] <= x < edges[i], and has row 1 + i."""

    @property
    def rows(self) -> int:
        return 2 + len(self.edges)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows of a table, ready to learn from."""

    rows_NS: Tensor
    """int32: of each slot's own table."""
    dense_NF: Tensor
    """float32."""
    label_N: Tensor
    """float32, 0 or 1; empty where there is no label."""

    def __len__(self) -> int:
        return int(self.rows_NS.shape[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """How columns become arrays; learned from the training rows alone."""

    categorical: list[Categorical] = field(default_factory=list)
    numeric: list[Numeric] = field(default_factory=list)

    @property
    def columns(self) -> tuple[Categorical | Numeric, ...]:
        """Columns that are read; each is a slot, in this order."""
        return (*self.categorical, *self.numeric)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Slots in the order of rows_NS, then of dense_NF."""
        slots = (Slot(name=table.name, side="candidate", table=table.name) for table in self.tables)
        return (*slots, *(Slot(name=c.name, side="candidate", kind="numeric") for c in self.numeric))

    @property
    def tables(self) -> tuple[TableConfig, ...]:
        """A number's buckets are named after it, by an ending that no column's own name has."""
        ending = " (bucket)"
        while any(column.name.endswith(ending) for column in self.columns):
            ending += "'"
        names = (*(c.name for c in self.categorical), *(c.name + ending for c in self.numeric))
        return tuple(TableConfig(name=n, rows=c.rows, tail_rows=1) for n, c in zip(names, self.columns, strict=True))

    def encode(self, table: Any, label_N: Tensor | None = None) -> Encoded:
        """A pyarrow.Table; columns that the model does not know are left aside.

        Raises ValueError where a column is missing, or holds what cannot be what it was in training.
        """
        if missing := [c.name for c in self.columns if c.name not in table.column_names]:
            raise ValueError(f"the table lacks columns {missing}, which the model was trained on")
        N = table.num_rows
        rows_NS = np.empty((N, len(self.columns)), np.int32)
        dense_NF = np.empty((N, len(self.numeric)), np.float32)
        for s, column in enumerate(self.categorical):
            rows_NS[:, s] = _category_rows(column, table[column.name])
        for f, number in enumerate(self.numeric):
            x_N = numbers(table[number.name], number.name)
            known_N = ~np.isnan(x_N)
            standard_N = np.clip((x_N - number.mean) / number.std, -HUGE, HUGE)
            dense_NF[:, f] = np.where(known_N, standard_N, 0.0)
            bucket_N = 1 + np.searchsorted(number.edges, x_N, side="right")
            rows_NS[:, len(self.categorical) + f] = np.where(known_N, bucket_N, MISSING)
        return Encoded(
            torch.from_numpy(rows_NS),
            torch.from_numpy(dense_NF),
            torch.empty(0) if label_N is None else label_N,
        )


def learn_encoder(table: Any, found: list[Found], *, min_count: int, buckets: int) -> Encoder:
    """Learn from the training rows. Categories seen fewer than min_count times share a row."""
    return Encoder(
        categorical=[_learn_categorical(table[f.name], f.name, min_count) for f in found if f.kind == "categorical"],
        numeric=[_learn_numeric(numbers(table[f.name], f.name), f.name, buckets) for f in found if f.kind == "numeric"],
    )


def _learn_categorical(values: Any, name: str, min_count: int) -> Categorical:
    counted = pc.value_counts(texts(values, name).drop_null())
    category, count = counted.field("values"), counted.field("counts")
    often = pa.table({"category": category, "count": count}).filter(pc.greater_equal(count, min_count))
    ordered = often.sort_by([("count", "descending"), ("category", "ascending")])
    text = pa.types.is_string(plain(values, name).type)
    return Categorical(name=name, vocabulary=ordered["category"].to_pylist(), text=text)


def _learn_numeric(x_N: F64, name: str, buckets: int) -> Numeric:
    known = x_N[~np.isnan(x_N)]
    if not len(known):
        raise ValueError(f"numeric column {name!r} holds no finite number in the training rows: ignore it")
    edges = np.unique(np.quantile(known, np.linspace(0, 1, buckets + 1)[1:-1], method="nearest"))
    return Numeric(
        name=name,
        mean=float(known.mean()),
        std=float(known.std()) or 1.0,
        edges=[float(edge) for edge in edges if edge > known.min()],
    )


def _category_rows(column: Categorical, values: Any) -> Any:
    strings = texts(values, column.name)
    if isinstance(strings, pa.ChunkedArray):
        strings = strings.combine_chunks()
    index = pc.index_in(strings, value_set=pa.array(column.vocabulary, pa.string()))
    rows = pc.if_else(pc.is_null(strings), MISSING - 1, pc.fill_null(index, len(column.vocabulary)))
    return rows.to_numpy(zero_copy_only=False) + 1
