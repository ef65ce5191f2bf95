"""Rows of a table as logged impressions, by a column mapping; a cell that cannot be read is named by row and column."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.types as pat

from ranker.arrays import F64, I64
from ranker.tabular.columns import numbers, texts
from ranker.tabular.plain import is_list, plain
from streams.datasets.logs.columns import PER_S, PLACES, Mapping
from streams.datasets.logs.traffic import Feature, FeatureMap, LoggedImpression

_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_YEAR_S = 365.2425 * 86_400


class Rows:
    """A record batch under a mapping. Raises ValueError, in reading it, naming the row and the column."""

    def __init__(self, batch: Any, mapping: Mapping, first: int) -> None:
        """first: number of the batch's first row in the file."""
        self._batch = batch
        self._mapping = mapping
        self._first = first

    def impressions(self) -> Iterator[LoggedImpression]:
        mapping = self._mapping
        users, items = self._ids(mapping.user), self._ids(mapping.item)
        sides = (mapping.user_columns, mapping.item_columns, mapping.context_columns)
        cells = zip(
            users,
            items,
            self._times_ms().tolist(),
            self._clicks().tolist(),
            self._positions().tolist() if mapping.position else [0] * len(users),
            *(self._features(columns) for columns in sides),
            strict=True,
        )
        yield from (LoggedImpression(*row) for row in cells)

    def _ids(self, name: str) -> list[str]:
        found = texts(self._batch[name], name)
        self._require(~np.asarray(found.is_null()), name, "every row needs a user and an item")
        ids: list[str] = found.to_pylist()
        return ids

    def _times_ms(self) -> I64:
        name, unit = self._mapping.time, self._mapping.time_unit
        values = self._batch[name]
        if pat.is_timestamp(values.type) or pat.is_date(values.type):
            second_N = numbers(values, name)  # it knows its unit
        elif not (pat.is_string(values.type) or pat.is_integer(values.type) or pat.is_floating(values.type)):
            raise ValueError(f"column {name!r} is of type {values.type}, which is no point in time")
        elif unit == "iso":
            second_N = self._iso_seconds(name)
        else:
            second_N = self._numbers(name) / PER_S[unit]
        self._require(np.isfinite(second_N), name, "every row needs a time, and a finite one")
        earliest, latest = self._mapping.begins_ms / 1000, self._mapping.ends_ms / 1000
        within_N = (earliest <= second_N) & (second_N <= latest)
        if not within_N.all():
            self._require(within_N, name, self._implausible(float(second_N[within_N.argmin()])))
        return np.rint(second_N * 1000).astype(np.int64)

    def _iso_seconds(self, name: str) -> F64:
        second_N = np.full(len(self._batch), np.nan)
        for row, value in enumerate(texts(self._batch[name], name).to_pylist()):
            try:
                if value is not None:
                    moment = datetime.fromisoformat(value)
                    second_N[row] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError) as error:
                self._refuse(row, name, f"{error}; with another time_unit, numbers are times too")
        return second_N

    def _implausible(self, second: float) -> str:
        """What is wrong with a time, and which unit the log's times are likely of."""
        mapping, own = self._mapping, self._mapping.time_unit
        said = f"a time must lie from {mapping.earliest} to {mapping.latest}, and this is in the year {_year(second)}"
        if own in PER_S:
            for unit, per_s in PER_S.items():
                other = second * PER_S[own] / per_s
                if mapping.begins_ms <= 1000 * other <= mapping.ends_ms:
                    day = datetime.fromtimestamp(other, UTC).date()
                    return f'{said} with time_unit = "{own}"; as {_UNITS[unit]} it is {day}: say time_unit = "{unit}"'
        return f"{said}; mend it, or say `earliest` or `latest` in the mapping"

    def _labels(self) -> F64:
        """Reads labels: numbers, or in text also true and false in any case, as Arrow reads them elsewhere."""
        name = self._mapping.label
        values = self._batch[name]
        if pat.is_string(values.type):
            word = pc.utf8_lower(values)
            values = pc.if_else(pc.equal(word, "true"), "1", pc.if_else(pc.equal(word, "false"), "0", values))
        label_N = self._numbers(name, values)
        self._require(np.isfinite(label_N), name, "every row needs a label, and a finite one")
        return label_N

    def _clicks(self) -> npt.NDArray[np.bool_]:
        label_N, least = self._labels(), self._mapping.click_at_least
        if least is None:
            self._require(
                np.isin(label_N, (0, 1)),
                self._mapping.label,
                "a label must be 0 or 1; of other numbers, say in the mapping from which on one is a click "
                "(click_at_least)",
            )
        clicked_N: npt.NDArray[np.bool_] = label_N >= (1 if least is None else least)
        return clicked_N

    def _positions(self) -> I64:
        name = self._mapping.position or ""
        position_N = self._numbers(name)
        with np.errstate(invalid="ignore"):
            right_N = (position_N >= 0) & (position_N < PLACES) & (position_N == np.floor(position_N))
        self._require(
            right_N,
            name,
            f"a position must be >= 0, and whole, and below {PLACES}, as many as a response returns; mend it, or leave "
            "`position` out of the mapping",
        )
        return position_N.astype(np.int64)

    def _features(self, columns: tuple[str, ...]) -> list[FeatureMap]:
        """Empty cells are left out: the model has a place for what is missing."""
        cells = [self._cells(name) for name in columns]
        rows = zip(*cells, strict=True) if cells else ((),) * len(self._batch)
        return [{n: v for n, v in zip(columns, row, strict=True) if v is not None} for row in rows]

    def _cells(self, name: str) -> Sequence[Feature | None]:
        if name in self._mapping.numeric_columns:
            return [None if np.isnan(number) else number for number in self._numbers(name).tolist()]
        values = self._batch[name]
        if not is_list(values.type):
            found: list[str | None] = texts(values, name).to_pylist()
            return found
        words = iter(texts(plain(pc.list_flatten(values), name, self._mapping.null_words), name).to_pylist())
        lists = (list(islice(words, length or 0)) for length in pc.list_value_length(values).to_pylist())
        return [[word for word in some if word is not None] or None for some in lists]

    def _numbers(self, name: str, values: Any = None) -> F64:
        """Returns the numbers of the column, or of other values in its place."""
        values = self._batch[name] if values is None else values
        try:
            return numbers(values, name)
        except ValueError:
            if pat.is_string(values.type):
                self._require(np.array([_is_number(word) for word in values.to_pylist()]), name, "a number is needed")
            raise

    def _require(self, right_N: Any, name: str, need: str) -> None:
        if right_N.all():
            return
        row = int(right_N.argmin())
        self._refuse(row, name, need)

    def _refuse(self, row: int, name: str, need: str) -> NoReturn:
        value = self._batch[name][row]
        cell = f"holds {str(value)!r}" if value.is_valid else "is empty, or a word for null"
        raise ValueError(f"row {self._first + row}: column {name!r} {cell}: {need}")


def _is_number(word: str | None) -> bool:
    try:
        return word is None or float(word) is not None
    except ValueError:
        return False


def _year(second: float) -> str:
    return f"{math.floor(1970 + second / _YEAR_S):,}"
