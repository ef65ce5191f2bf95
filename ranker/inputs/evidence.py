"""What a user's log says of each candidate, counted: events of items that have the candidate's value of a slot.

    c(slot, kind, τ) = Σ_e  [value of e's item = the candidate's value] · [action of e is of the kind] · exp(-age_e / τ)

for three kinds of action and three decays, and beside them the ages of the newest event that was shown, and that was
clicked (hard search by category: Pi et al., 2020, "Search-based User Interest Modeling"). Matches are of keys, exact.
The catalogue says which values an item has: the trainer fills it from what it learns, and replicas receive it with the
weights. A request's events are read once, whatever the number of its candidates; no array has candidates × events
elements. Of a candidate with several values in a slot the first counts. The slot `*` has the same value everywhere: its
counts are of the whole log.
"""

# N candidates, E log events over all requests, S slots, C columns, R rows of the item table, G distinct values of the
# candidates of one request, over all requests.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.arrays import F32, I64, U64

SHOWN, CLICKED, ACTED = 0, 1, 2
"""Kinds: an impression, a click, and all that is worth more."""
_KIND_OF_ACTION = np.array([-1, SHOWN, CLICKED, -1] + [ACTED] * 28)
"""By action code; -1: does not count (0 is no event, a search names no item)."""
DECAYS_S = (float("inf"), 86_400.0, 3_600.0)
"""Seconds after which an event counts 1/e: never less, a day, an hour."""
COUNTS = len(DECAYS_S) * 3
COLUMNS = COUNTS + 2
"""Counts by kind and decay, then log1p of the seconds since the newest that was shown, and clicked."""
NEVER = np.float32(np.log1p(10 * 365 * 86_400.0))
"""Age where there is none."""


def kinds(action_E: I64) -> I64:
    """Kind of each action; -1: none that counts."""
    kind_E: I64 = _KIND_OF_ACTION[action_E]
    return kind_E


@dataclass(frozen=True, slots=True)
class Events:
    """Log events over all requests."""

    request_E: I64
    action_E: I64
    age_E: F32
    """log1p of seconds between event and request."""

    def weights(self) -> F32:
        """[COUNTS, E]: what an event adds to each count."""
        kind_E = kinds(self.action_E)
        age_s_E = np.expm1(self.age_E)
        fades = [np.exp(-age_s_E / tau_s) if np.isfinite(tau_s) else np.ones_like(age_s_E) for tau_s in DECAYS_S]
        return np.stack([fade_E * (kind_E == kind) for kind in (SHOWN, CLICKED, ACTED) for fade_E in fades])


def count_evidence(
    events: Events,
    values_E: Mapping[str, tuple[U64, npt.NDArray[np.bool_]]],
    candidates: Mapping[str, U64],
    request_of_N: I64,
) -> F32:
    """[N, S, COLUMNS] over the slots of `candidates`, in their order.

    Args:
        values_E: by slot, the value of each event's item, and whether it is known.
        candidates: by slot, the value [N] of each candidate.
    """
    kind_E, cells = kinds(events.action_E), 0
    place_NS = np.empty((len(request_of_N), len(candidates)), np.int64)
    group_parts, event_parts = [], []
    for place, (slot, value_N) in enumerate(candidates.items()):
        value_E, known_E = values_E[slot]
        group_N, group_E = _groups(value_N, request_of_N, value_E, events.request_E, known_E & (kind_E >= 0))
        (matched,) = np.nonzero(group_E >= 0)
        place_NS[:, place] = group_N + cells
        group_parts.append(group_E[matched] + cells)
        event_parts.append(matched)
        cells += int(group_N.max(initial=-1)) + 1
    group_M, event_M = np.concatenate(group_parts), np.concatenate(event_parts)
    # One table for all slots, a row for each value that a request's candidates have: few calls, whatever the slots.
    table_GC = np.empty((cells, COLUMNS), np.float32)
    cell_CM = group_M * COUNTS + np.arange(COUNTS)[:, None]
    counted = np.bincount(cell_CM.ravel(), events.weights()[:, event_M].ravel(), cells * COUNTS)
    table_GC[:, :COUNTS] = counted.reshape(cells, COUNTS)
    table_GC[:, COUNTS:] = NEVER
    of_both = kind_E[event_M] <= CLICKED
    group_M, event_M = group_M[of_both], event_M[of_both]
    # Events lie in the order in which they arrived: the last need not be the newest.
    np.minimum.at(table_GC, (group_M, COUNTS + kind_E[event_M]), events.age_E[event_M])
    return table_GC[place_NS]


def _groups(
    value_N: U64, request_N: I64, value_E: U64, request_E: I64, known_E: npt.NDArray[np.bool_]
) -> tuple[I64, I64]:
    """Numbers the pairs of request and value that candidates have: of each candidate, and of each event (-1: none)."""
    distinct, number_N = np.unique(value_N, return_inverse=True)
    if not len(distinct):
        return np.empty(0, np.int64), np.full(len(value_E), -1)
    number_E = np.minimum(np.searchsorted(distinct, value_E), len(distinct) - 1)
    known_E = known_E & (distinct[number_E] == value_E)
    if not request_N[-1] and not request_E[-1:].any():  # a single request: its values are the pairs
        return number_N, np.where(known_E, number_E, -1)
    pairs, group_N = np.unique(request_N * len(distinct) + number_N, return_inverse=True)
    pair_E = request_E * len(distinct) + number_E
    group_E = np.minimum(np.searchsorted(pairs, pair_E), len(pairs) - 1)
    return group_N, np.where(known_E & (pairs[group_E] == pair_E), group_E, -1)


class Catalogue:
    """Values of each item that has a row, by row of the item table.

    A row's entry is its item's alone: whoever gives a row to another item clears it.
    """

    def __init__(self, table: str, slots: Sequence[str], rows: int) -> None:
        """slots: those of candidates that evidence is counted for, except `item`."""
        self.table = table
        self.slots = tuple(slots)
        self.entry_RS: U64 = np.zeros((rows if self.slots else 0, len(self.slots)), np.uint64)
        """Keys; 0: not known."""

    def values(self, row_E: I64) -> dict[str, tuple[U64, npt.NDArray[np.bool_]]]:
        """By slot, the values of these rows' items, and whether they are known; row -1 is of an item without a row."""
        entry_ES = self.entry_RS[np.maximum(row_E, 0)]
        known_ES = (row_E >= 0)[:, None] & (entry_ES != 0)
        return {slot: (entry_ES[:, s], known_ES[:, s]) for s, slot in enumerate(self.slots)}

    def learn(self, rows: I64, entry_KS: U64) -> I64:
        """Takes the entries of rows, the last where a row comes twice. Returns the rows whose entries changed,
        ascending."""
        rows, last = np.unique(rows[::-1], return_index=True)
        entry_KS = entry_KS[::-1][last]
        changed: npt.NDArray[np.bool_] = (self.entry_RS[rows] != entry_KS).any(axis=1)
        self.entry_RS[rows[changed]] = entry_KS[changed]
        return rows[changed]

    def clear(self, rows: I64) -> None:
        if self.slots:
            self.entry_RS[rows] = 0
