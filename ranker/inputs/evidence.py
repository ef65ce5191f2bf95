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
# candidates of one request, over all requests, A = S · N, F = S · E.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.arrays import F32, I64, U64

SHOWN, CLICKED, ACTED = 0, 1, 2
"""Kinds: an impression, a click, and all that is worth more."""
KIND_OF_ACTION = np.array([-1, SHOWN, CLICKED, -1] + [ACTED] * 28)
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
    kind_E: I64 = KIND_OF_ACTION[action_E]
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
    kind_E, slots = kinds(events.action_E), len(candidates)
    counts_E = kind_E >= 0
    # All slots at once, so that there are few calls: values are salted by their slot, so those of two slots differ.
    group_A, group_F = _groups(
        np.concatenate(list(candidates.values())),
        np.tile(request_of_N, slots),
        np.concatenate([values_E[slot][0] for slot in candidates]),
        np.tile(events.request_E, slots),
        np.concatenate([values_E[slot][1] & counts_E for slot in candidates]),
    )
    (matched_M,) = np.nonzero(group_F >= 0)
    group_M, event_M = group_F[matched_M], matched_M % max(1, len(kind_E))
    cells = int(group_A.max(initial=-1)) + 1
    table_GC = np.empty((cells, COLUMNS), np.float32)
    cell_CM = group_M * COUNTS + np.arange(COUNTS)[:, None]
    counted = np.bincount(cell_CM.ravel(), events.weights()[:, event_M].ravel(), cells * COUNTS)
    table_GC[:, :COUNTS] = counted.reshape(cells, COUNTS)
    table_GC[:, COUNTS:] = NEVER
    of_both = kind_E[event_M] <= CLICKED
    group_M, event_M = group_M[of_both], event_M[of_both]
    # Events lie in the order in which they arrived: the last need not be the newest.
    np.minimum.at(table_GC, (group_M, COUNTS + kind_E[event_M]), events.age_E[event_M])
    return table_GC[group_A.reshape(slots, -1).T]


def _groups(
    value_A: U64, request_A: I64, value_F: U64, request_F: I64, known_F: npt.NDArray[np.bool_]
) -> tuple[I64, I64]:
    """Numbers the pairs of request and value that candidates have: of each candidate's value, and of each event's
    (-1: of no candidate, or not known)."""
    distinct, number_A = np.unique(value_A, return_inverse=True)
    if not len(distinct):
        return np.empty(0, np.int64), np.full(len(value_F), -1)
    number_F = _find(distinct, value_F)
    known_F = known_F & (number_F >= 0)
    if not request_A[-1] and not request_F[-1:].any():  # a single request: its values are the pairs
        return number_A, np.where(known_F, number_F, -1)
    pairs, group_A = np.unique(request_A * len(distinct) + number_A, return_inverse=True)
    pair_F = request_F * len(distinct) + number_F
    group_F = np.minimum(np.searchsorted(pairs, pair_F), len(pairs) - 1)
    return group_A, np.where(known_F & (pairs[group_F] == pair_F), group_F, -1)


def _find(distinct: U64, value_F: U64) -> I64:
    """Place of each value in `distinct`, which ascends; -1: it is not there.

    Values are hashes, so a table by their high bits finds nearly all in one look, a search only those that share a
    place: an eighth of the time of a search for all.
    """
    bits = max(10, int(len(distinct) - 1).bit_length() + 4)
    shift = np.uint64(64 - bits)
    number_of = np.full(1 << bits, -1, np.int32)
    place_V = (distinct >> shift).astype(np.int64)
    numbers = np.arange(len(distinct), dtype=np.int32)
    number_of[place_V] = numbers
    place_F = (value_F >> shift).astype(np.int64)
    number_F = number_of[place_F].astype(np.int64)
    found_F = distinct[number_F] == value_F  # of -1 the last: not found, as its own place holds it or a neighbour
    number_F[~found_F] = -1
    crowded = place_V[number_of[place_V] != numbers]
    if len(crowded):
        shared = np.zeros(1 << bits, np.bool_)
        shared[crowded] = True
        (again,) = np.nonzero(shared[place_F] & ~found_F)
        at = np.minimum(np.searchsorted(distinct, value_F[again]), len(distinct) - 1)
        number_F[again] = np.where(distinct[at] == value_F[again], at, -1)
    return number_F


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
        """Takes what is known of rows, of each slot the last where a row comes twice; 0 leaves the entry as it was.
        Returns the rows whose entries changed, ascending."""
        distinct = np.unique(rows)
        before_KS = self.entry_RS[distinct]
        for s in range(len(self.slots)):
            known = entry_KS[:, s] != 0
            self.entry_RS[rows[known], s] = entry_KS[known, s]
        changed: npt.NDArray[np.bool_] = (self.entry_RS[distinct] != before_KS).any(axis=1)
        return distinct[changed]

    def clear(self, rows: I64) -> None:
        if self.slots:
            self.entry_RS[rows] = 0
