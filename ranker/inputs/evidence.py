"""What a user's log says of each candidate, counted: events of items that have the candidate's value of a slot.

    c(slot, kind, τ) = Σ_e  [value of e's item = the candidate's value] · [action of e is of the kind] · exp(-age_e / τ)

for three kinds of action and three decays, and beside them the ages of the newest event that was shown, and that was
clicked (hard search by category: Pi et al., 2020, "Search-based User Interest Modeling"). The catalogue says which
values an item has: the trainer fills it from what it learns, and replicas receive it with the weights. A request's
events are read once, whatever the number of its candidates; no array has candidates × events elements. Of a candidate
with several values in a slot the first counts. The slot `*` has the same value everywhere: its counts are of the whole
log.
"""

# N candidates, B requests, E log events over all of them, S slots, C columns, R rows of the item table, P moments, K
# lengths of a log, A = S · N, F = S · E, G pairs of a request and a value that a candidate has, Q pairs of a moment and
# such a value, M pairs of an event and a value that match, X those among the newest events before a moment.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.arrays import F32, I64, U64
from ranker.inputs.hashing import mixed

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
class KnownLogs:
    """Events of requests' logs, back to back, with what the catalogue knows of their items."""

    lengths_B: I64
    action_E: I64
    age_E: F32
    """log1p of seconds between event and request."""
    values_E: Mapping[str, tuple[U64, npt.NDArray[np.bool_]]]
    """By slot, the value of each event's item, and whether it is known."""

    def by_time(self) -> "KnownLogs":
        """The same events, of each request the oldest first. They lie as they arrived: a click may be before what it is
        of, which comes before it in the same second too (actions are numbered so)."""
        younger_E = ~self.age_E.view(np.uint32)  # of a float that is not negative, the bits order as it does
        request_E = np.repeat(np.arange(len(self.lengths_B), dtype=np.uint64), self.lengths_B)
        place_E = (request_E << np.uint64(37)) | (younger_E.astype(np.uint64) << np.uint64(5))
        order = np.argsort(place_E | self.action_E.astype(np.uint64), kind="stable")
        values_E = {slot: (value_E[order], known_E[order]) for slot, (value_E, known_E) in self.values_E.items()}
        return KnownLogs(self.lengths_B, self.action_E[order], self.age_E[order], values_E)


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments at which logs are counted: events that had come by then, as old as they were then."""

    request_P: I64
    until_P: I64
    """Place among all events behind the last that had come."""
    age_s_P: npt.NDArray[np.float64]
    """Seconds between the moment and the request."""

    @classmethod
    def now(cls, lengths_B: I64) -> "Moments":
        """Those of the requests themselves."""
        return cls(np.arange(len(lengths_B)), np.cumsum(lengths_B), np.zeros(len(lengths_B)))


def count_evidence(
    logs: KnownLogs, candidates: Mapping[str, U64], moments: Moments, moment_of_N: I64, newest_KP: I64
) -> F32:
    """[K, N, S, COLUMNS] over the slots of `candidates`, in their order.

    Args:
        candidates: by slot, the value [N] of each candidate.
        moment_of_N: when each is counted.
        newest_KP: how many events of each moment count, the newest; ascending over K, and all K take one pass.
    """
    slots, lengths, events = len(candidates), len(newest_KP), len(logs.action_E)
    group_A, groups, group_M, event_M = _matches(logs, candidates, moments.request_P[moment_of_N])
    pair_Q, query_A = np.unique(np.tile(moment_of_N, slots) * groups + group_A, return_inverse=True)
    moment_Q, group_Q = np.divmod(pair_Q, max(1, groups))
    # Matches of a group lie in the order of events: what a query counts is a stretch of them, and what it counts
    # besides by the next length is the stretch before that.
    starts_B = np.cumsum(logs.lengths_B) - logs.lengths_B
    since_KP = np.maximum(starts_B[moments.request_P], moments.until_P - newest_KP)
    edges_QK = np.concatenate([moments.until_P[None], since_KP])[:, moment_Q].T
    place_QK = np.searchsorted(group_M * (events + 1) + event_M, group_Q[:, None] * (events + 1) + edges_QK)
    sizes_R = (place_QK[:, :-1] - place_QK[:, 1:]).ravel()
    shift_R = place_QK[:, 1:].ravel() - (np.cumsum(sizes_R) - sizes_R)
    event_X = event_M[np.repeat(shift_R, sizes_R) + np.arange(sizes_R.sum())]
    sums_RC, ages_RC = _sums(logs, event_X, sizes_R, np.repeat(moments.age_s_P[moment_Q], lengths))
    table_QKC = np.concatenate(
        [
            np.cumsum(sums_RC.reshape(-1, lengths, COUNTS), axis=1),
            np.minimum.accumulate(ages_RC.reshape(-1, lengths, COLUMNS - COUNTS), axis=1),
        ],
        axis=2,
        dtype=np.float32,
    )
    return np.ascontiguousarray(table_QKC.transpose(1, 0, 2)[:, query_A.reshape(slots, -1).T])


def _matches(logs: KnownLogs, candidates: Mapping[str, U64], request_of_N: I64) -> tuple[I64, int, I64, I64]:
    """Numbers the pairs of a request and a value that candidates have.

    Returns the pair of each candidate's value [A], how many there are, and of each match its pair, ascending, and its
    event [M], in order.
    """
    kind_E, slots = kinds(logs.action_E), len(candidates)
    # All slots at once, so that there are few calls: values are salted by their slot, so those of two slots differ, and
    # here by their request too. Keys are hashes of 64 bits: that two pairs are taken for one is as rare as of two keys.
    salt_B = mixed(np.arange(len(logs.lengths_B), dtype=np.uint64))
    pair_A = np.bitwise_xor(np.concatenate(list(candidates.values())), np.tile(salt_B[request_of_N], slots))
    distinct, group_A = np.unique(pair_A, return_inverse=True)
    if not len(distinct):
        return group_A, 0, group_A, group_A
    value_F = np.concatenate([logs.values_E[slot][0] for slot in candidates])
    pair_F = np.bitwise_xor(value_F, np.tile(np.repeat(salt_B, logs.lengths_B), slots))
    group_F = find(distinct, pair_F)
    counts_E = kind_E >= 0
    counts_F = np.concatenate([logs.values_E[slot][1] & counts_E for slot in candidates])
    (matched_M,) = np.nonzero(counts_F & (group_F >= 0))
    group_M = group_F[matched_M]
    # numpy sorts 16 bits by counting them: a tenth of the time.
    order = np.argsort(group_M.astype(np.uint16) if len(distinct) <= 2**16 else group_M, kind="stable")
    return group_A, len(distinct), group_M[order], matched_M[order] % len(kind_E)


def _sums(
    logs: KnownLogs, event_X: I64, sizes_R: I64, age_s_R: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Counts [R, COUNTS] of stretches of so many events, seen from those ages, and the newest ages [R, 2]."""
    rows = len(sizes_R)
    row_X, kind_X = np.repeat(np.arange(rows), sizes_R), kinds(logs.action_E)[event_X]
    age_s_X = np.expm1(logs.age_E.astype(np.float64))[event_X] - np.repeat(age_s_R, sizes_R)
    age_s_X = np.maximum(age_s_X, 0).astype(np.float32)
    cell_X = row_X * 3 + kind_X
    sums_RC = np.zeros((rows, 3, len(DECAYS_S)))
    for d, tau_s in enumerate(DECAYS_S):
        fade_X = np.exp(age_s_X * np.float32(-1 / tau_s)) if np.isfinite(tau_s) else None
        sums_RC[..., d] = np.bincount(cell_X, fade_X, rows * 3).reshape(rows, 3)
    # Events lie in the order in which they arrived: the last need not be the newest.
    ages_RC = np.full((rows, 2), np.expm1(np.float64(NEVER)))
    full_R = np.flatnonzero(sizes_R)
    starts_R = (np.cumsum(sizes_R) - sizes_R)[full_R]
    for kind in (SHOWN, CLICKED):
        if len(full_R):
            ages_RC[full_R, kind] = np.minimum.reduceat(np.where(kind_X == kind, age_s_X, np.inf), starts_R)
    return sums_RC.reshape(rows, COUNTS), np.minimum(np.log1p(ages_RC), NEVER)


def find(distinct: U64, value_F: U64) -> I64:
    """Place of each value in `distinct`, which ascends and is not empty; -1: it is not there.

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
