"""How many rows each embedding table gets under one memory budget.

All tables compete for the same bytes, and one price settles what each gets: the occurrences that a row must serve to be
worth its memory. A key that comes at least so often has a row of its own; what is left shares the table's tail, whose
rows must serve as much for each of their (fewer) bytes. The price is the lowest that the budget allows, so that the
next byte would serve as many occurrences in one table as in any other. Some rules stand above it:

- a key seen fewer than `min_count` times never has a row of its own (one occurrence teaches nothing that comes back),
  and a tail row serves `tail_count` at least;
- a table whose keys all fit into a twentieth of the budget has a row for each, and for a quarter more.
"""

# K distinct keys of a slot, by count.

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ranker.arrays import I64, U64
from ranker.inputs.keymap import map_bytes
from ranker.planning.sketch import FrequentKeys, HyperLogLog

_TRAINED_BYTES = 4 + 1
"""Bytes beside a row's weights: its optimizer's sum, and whether it is to be published."""
_ADMITTED_BYTES = 8 + 8 + 4
"""Bytes of a row with a key: the step it was last used at, its place among the free ones, a mark of who was turned
away."""
_SMALL = 1 / 20
_SPARE = 1 / 4
_HALVINGS = 60


def table_bytes(rows: int, tail_rows: int, width: int) -> int:
    """Memory of a table in the trainer: float32 weights, optimizer state, key map, order of use.

    A replica has weights and key map alone.
    """
    return (rows + tail_rows) * _tail_row_bytes(width) + rows * _ADMITTED_BYTES + map_bytes(rows)


class SlotCounts:
    """What came in one slot."""

    def __init__(self, name: str, table: str, capacity: int) -> None:
        """capacity: how many of its keys are counted one by one, the most frequent (see capacity_for)."""
        self.name = name
        self.table = table
        self._distinct = HyperLogLog()
        self._frequent = FrequentKeys(capacity)

    def add(self, keys: U64, counts: I64 | None = None) -> None:
        """Salted keys; counts: how often each came, once where not given."""
        self._distinct.add(keys)
        self._frequent.add(keys, counts)

    def merge(self, other: "SlotCounts") -> None:
        """Adds the other's counts to this one's."""
        self._distinct.merge(other._distinct)
        self._frequent.merge(other._frequent)

    @property
    def occurrences(self) -> int:
        return self._frequent.total

    @property
    def all_counted(self) -> bool:
        """Every key that came is in counts(), exactly."""
        return self._frequent.error == 0

    def distinct(self) -> tuple[float, float]:
        """Distinct keys and the standard error of that, which is 0 where all were counted."""
        if self.all_counted:
            return float(len(self._frequent)), 0.0
        estimate = self._distinct.estimate()
        return estimate, estimate * self._distinct.standard_error

    def counts(self) -> I64:
        """Descending, of the keys that were counted one by one.

        What the sketch took off is given back to keys that are beyond its error: being frequent, they were there
        whenever something was taken off. The others keep their lower bound.
        """
        _, counts = self._frequent.items()
        return counts + np.where(counts > self._frequent.error, self._frequent.error, 0)

    def rows_for(self, share: float) -> int:
        """Rows that serve this share of occurrences, the most frequent keys first.

        Keys that were not counted one by one are taken as equally frequent.
        """
        counts = self.counts()
        served = np.cumsum(counts)
        counted = int(counts.sum())
        wanted = share * self.occurrences
        if wanted <= counted or counted >= self.occurrences:
            return min(int(np.searchsorted(served, wanted)) + (wanted > 0), len(counts))
        others = max(self.distinct()[0] - len(counts), 0)
        return len(counts) + math.ceil(others * (wanted - counted) / (self.occurrences - counted))


@dataclass(frozen=True, slots=True)
class PlannedSlot:
    name: str
    table: str
    distinct: float
    distinct_error: float
    """Standard error."""
    occurrences: int
    rows_for_90_percent: int
    rows: int
    """Keys of the slot that the plan has rows of their own for."""
    covered: float
    """Share of its occurrences that those keys make up."""


@dataclass(frozen=True, slots=True)
class PlannedTable:
    name: str
    rows: int
    tail_rows: int
    nbytes: int
    tail_keys: float
    """Keys without a row of their own."""
    tail_collisions: float
    """Tail keys expected to share their tail row with another: K·(1 - (1 - 1/T)^(K-1)) over T rows."""


@dataclass(frozen=True, slots=True)
class Plan:
    slots: list[PlannedSlot]
    tables: list[PlannedTable]
    width: int
    budget_bytes: int
    price: float
    """Occurrences that a row of its own must serve."""

    @property
    def nbytes(self) -> int:
        return sum(table.nbytes for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"nbytes": self.nbytes}


@dataclass(frozen=True, slots=True)
class _Demand:
    """What one table's slots ask for at a price."""

    name: str
    slots: list[SlotCounts]
    counts: list[I64]
    distinct: float
    occurrences: int
    small: bool

    def rows_of_slots(self, price: float) -> list[int]:
        if self.small:
            return [len(counts) for counts in self.counts]
        return [_at_least(counts, price) for counts in self.counts]

    def size(self, price: float, tail_count: int, width: int) -> tuple[int, int]:
        """Rows and tail rows."""
        by_slot = self.rows_of_slots(price)
        rows = sum(by_slot)
        served = sum(int(counts[:n].sum()) for counts, n in zip(self.counts, by_slot, strict=True))
        left_keys = max(self.distinct - rows, 0)
        if self.small:
            rows = math.ceil(rows * (1 + _SPARE))
        load = max(price * _tail_row_bytes(width) / _row_bytes(width), tail_count)
        return max(rows, 1), max(math.ceil(min(max(self.occurrences - served, 0) / load, left_keys)), 1)


def capacity_for(budget_bytes: int, width: int) -> int:
    """Keys of a slot worth counting one by one: four times what could have rows, so that those are counted well."""
    return 4 * max(budget_bytes // _row_bytes(width), 1)


def plan_tables(
    slots: Sequence[SlotCounts], *, width: int, budget_bytes: int, min_count: int = 2, tail_count: int = 1_000
) -> Plan:
    """Sizes of the tables that the slots name.

    tail_count: occurrences that a tail row serves at least. Rare keys say most together: the more share a row, the
    better it knows what an unknown key is like (8, 64, 256 and 1,000 were tried: benchmarks.embeddings).
    Raises ValueError if nothing came in any slot, or the budget does not hold one row and one tail row a table.
    """
    if not any(slot.occurrences for slot in slots):
        raise ValueError("a plan needs occurrences, and there are none in any slot")
    demands = [_demand(table, slots, width, budget_bytes) for table in dict.fromkeys(slot.table for slot in slots)]

    def total(price: float) -> int:
        return sum(table_bytes(*d.size(price, tail_count, width), width) for d in demands)

    low, high = float(min_count), float(min_count) * sum(d.occurrences for d in demands) + 1  # which no key can pay
    if total(high) > budget_bytes:
        raise ValueError(
            f"{len(demands)} tables of width {width} need {total(high)} bytes at least, got a budget of "
            f"{budget_bytes}; raise the budget, or let more slots share a table"
        )
    if total(low) <= budget_bytes:
        high = low
    for _ in range(_HALVINGS if high > low else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if total(middle) <= budget_bytes else (middle, high)
    return Plan(
        slots=[planned for d in demands for planned in _planned_slots(d, high)],
        tables=[_planned_table(d, high, tail_count, width) for d in demands],
        width=width,
        budget_bytes=budget_bytes,
        price=high,
    )


def _demand(table: str, slots: Sequence[SlotCounts], width: int, budget_bytes: int) -> _Demand:
    own = [slot for slot in slots if slot.table == table]
    distinct = sum(slot.distinct()[0] for slot in own)
    counts = [slot.counts() for slot in own]
    all_counted = all(slot.all_counted for slot in own)
    fits = table_bytes(math.ceil(distinct * (1 + _SPARE)), 1, width) <= budget_bytes * _SMALL
    return _Demand(table, own, counts, distinct, sum(slot.occurrences for slot in own), all_counted and fits)


def _planned_slots(demand: _Demand, price: float) -> list[PlannedSlot]:
    return [
        PlannedSlot(
            name=slot.name,
            table=slot.table,
            distinct=slot.distinct()[0],
            distinct_error=slot.distinct()[1],
            occurrences=slot.occurrences,
            rows_for_90_percent=slot.rows_for(0.9),
            rows=rows,
            covered=min(float(counts[:rows].sum()) / slot.occurrences, 1.0) if slot.occurrences else 0.0,
        )
        for slot, counts, rows in zip(demand.slots, demand.counts, demand.rows_of_slots(price), strict=True)
    ]


def _planned_table(demand: _Demand, price: float, tail_count: int, width: int) -> PlannedTable:
    rows, tail_rows = demand.size(price, tail_count, width)
    keys = max(demand.distinct - sum(demand.rows_of_slots(price)), 0.0)
    alone = (1 - 1 / tail_rows) ** max(keys - 1, 0)
    return PlannedTable(demand.name, rows, tail_rows, table_bytes(rows, tail_rows, width), keys, keys * (1 - alone))


def _at_least(counts: I64, price: float) -> int:
    """How many of the descending counts are >= price; in between two counts, a share of those equal to the lower one.

    So a budget that ends among keys that came equally often is spent to the end, and each slot gets the same share.
    """
    below, above = math.floor(price), math.ceil(price)
    n_below, n_above = (int(np.searchsorted(-counts, -bound, side="right")) for bound in (below, above))
    return n_above + math.floor((n_below - n_above) * (above - price))


def _tail_row_bytes(width: int) -> int:
    return 4 * width + _TRAINED_BYTES


def _row_bytes(width: int) -> int:
    return _tail_row_bytes(width) + _ADMITTED_BYTES + map_bytes(1 << 20) // (1 << 20)
