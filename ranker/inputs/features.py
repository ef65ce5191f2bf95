"""Requests → keys → the model's batch.

A key is 64 bits: hash64 of the category, salted by its slot (the log's items are salted as slot `item`, and so are the
candidates' own). What is sent is taken as it comes, because a caller's odd feature must not cost it its ranking:

- a category may be a string, a list of strings (all of them count), or a number (an integer by all its digits);
- a category that is missing, or an empty list, is the category "";
- a numeric slot takes a finite number, and is 0 for anything else. Numbers are squashed to sign(x)·log1p(|x|), so
  that no scale a caller chooses can blow up a layer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ranker.arrays import F32, I64, U64
from ranker.config import ANY, CROSSES, HOUR, ITEM, LOG, STATISTICS, SURFACE, USER, ModelConfig, Slot
from ranker.inputs.batch import Batch, PastBatch, SlotValues
from ranker.inputs.evidence import Catalogue, KnownLogs, Moments, count_evidence
from ranker.inputs.hashing import salted
from ranker.inputs.keymap import KeyMap
from ranker.inputs.past import least_ages, past_pages
from ranker.inputs.requests import LOG_DTYPE, Features, ScoringRequest
from ranker.inputs.slot_keys import Crosses, SlotKeys, first_values, keys_of
from ranker.inputs.tables import table_of_slots

MAX_CODE = 32
"""Actions and surfaces of log events are below this."""
_MS_PER_HOUR = 3_600_000
_PLAIN = {float, type(None)}
"""Types of which numpy makes numbers as `_number` does: None is NaN, and what is not finite becomes 0 with it."""


@dataclass(frozen=True, slots=True)
class KeyedBatch:
    """A Batch that has keys where Batch has rows: what does not depend on which keys have rows by now."""

    request_of_N: I64
    slots: dict[str, SlotKeys]
    dense_user_BF: F32
    dense_item_NF: F32
    log_action_E: I64
    log_surface_E: I64
    log_age_E: F32
    log_value_E: F32


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the keys of a KeyedBatch are found."""

    slots: dict[str, I64]
    """[T] by slot: a key's own row, or the one of its tail."""
    logs: KnownLogs


@dataclass(frozen=True, slots=True)
class Past:
    """A PastBatch by how many events count, K, in arrays."""

    request_of_M: I64
    evidence_KMSC: F32
    crosses_MC: I64 | None
    """Rows of the past crosses; None where the model has none."""
    click_M: F32

    def part(self, k: int, chosen_B: npt.NDArray[np.bool_]) -> PastBatch:
        """What these requests' pages are to who reads the k-th number of events."""
        of_M = chosen_B[self.request_of_M]
        crosses = None
        if self.crosses_MC is not None:
            rows_MC = self.crosses_MC[of_M]
            lengths = torch.full((len(rows_MC),), rows_MC.shape[1])
            crosses = SlotValues(torch.from_numpy(rows_MC.ravel()), lengths)
        evidence_MSC, click_M = self.evidence_KMSC[k][of_M], self.click_M[of_M]
        return PastBatch(torch.from_numpy(evidence_MSC), crosses, torch.from_numpy(click_M))


class Lookup(Protocol):
    """What keys are looked up in."""

    key_maps: dict[str, KeyMap]
    catalogue: Catalogue


class Featurizer:
    """Makes keys and batches for one configuration. Holds no state: the same requests give the same keys everywhere."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._user_slots = config.side("user", "categorical")
        self._context_slots = config.side("context", "categorical")
        self._item_slots = config.side("candidate", "categorical")
        self._user_numbers = config.side("user", "numeric")
        self._context_numbers = config.side("context", "numeric")
        self._item_numbers = config.side("candidate", "numeric")
        self._table_of = table_of_slots(config)
        self._tables = {t.name: t for t in config.every_table}
        self._evidence_slots = config.evidence
        crossed = (CROSSES, config.crosses), (STATISTICS, config.statistics)
        self._crossed = {name: Crosses(name, crosses) for name, crosses in crossed if crosses}
        past = [config.crosses[place] for place in config.past_crosses]
        self._past_crosses = Crosses(CROSSES, past) if past else None

    def table_of(self, slot: str) -> str:
        return self._table_of[slot]

    def keys(self, requests: Sequence[ScoringRequest], log_length: int, *, crossed: bool = True) -> KeyedBatch:
        """The newest `log_length` events of each log count. Raises ValueError if a log holds a code >= 32.

        crossed: with keys of crosses and statistics, which `crossed` can add later.
        """
        values = {slot.name: _user_values(slot, requests) for slot in self._user_slots}
        values |= {slot.name: _context_values(slot, requests) for slot in self._context_slots}
        values |= {slot.name: _item_values(slot, requests) for slot in self._item_slots}
        slots = keys_of(values)
        events, lengths = _newest([r.log for r in requests], log_length)
        slots[LOG] = SlotKeys(salted(events["item"], ITEM), lengths)
        event_s = np.repeat(np.array([r.event_ms for r in requests], np.int64), lengths) / 1000
        keyed = KeyedBatch(
            request_of_N=np.repeat(np.arange(len(requests)), [len(r.items) for r in requests]),
            slots=slots,
            dense_user_BF=np.concatenate(
                [
                    _numbers(self._user_numbers, [r.features for r in requests]),
                    _numbers(self._context_numbers, [r.context for r in requests]),
                ],
                axis=1,
            ),
            dense_item_NF=_numbers(self._item_numbers, [f for r in requests for f in r.item_features]),
            log_action_E=_codes(events["action"], "action"),
            log_surface_E=_codes(events["surface"], "surface"),
            log_age_E=np.log1p(np.maximum(event_s - events["time_s"], 0)).astype(np.float32),
            log_value_E=_squash(events["value"].astype(np.float64)),
        )
        return self.crossed(keyed) if crossed else keyed

    def crossed(self, keyed: KeyedBatch) -> KeyedBatch:
        """The same with keys of crosses and statistics."""
        names = frozenset(slot.name for slot in self._item_slots)
        crosses = {name: of.keys(keyed.slots, keyed.request_of_N, names) for name, of in self._crossed.items()}
        log = {LOG: keyed.slots[LOG]}  # the last of all slots: see batch
        return replace(keyed, slots={name: of for name, of in keyed.slots.items() if name != LOG} | crosses | log)

    def batch(self, keyed: KeyedBatch, tables: Lookup) -> Batch:
        """Look the keys up. A key without a row of its own reads row `rows + key % tail_rows` of its table."""
        rows = self.rows(keyed, tables)
        return self.assemble(keyed, rows.slots, self.evidence(keyed, rows.logs, rows.logs.lengths_B[None]))

    def rows(self, keyed: KeyedBatch, tables: Lookup) -> Rows:
        """Look the keys up, for `assemble`."""
        by_table: dict[str, list[str]] = {}
        for name in keyed.slots:
            by_table.setdefault(self._table_of[name], []).append(name)
        slots: dict[str, I64] = {}
        rows_of_log = np.empty(0, np.int64)
        for table, names in by_table.items():
            keys = np.concatenate([keyed.slots[name].keys_T for name in names])
            own_T = own_rows(keys, tables.key_maps[table])
            if names[-1] == LOG:  # last of all slots, and so of its table's
                rows_of_log = own_T[len(keys) - len(keyed.slots[LOG].keys_T) :]
            rows_T = np.where(own_T >= 0, own_T, self.tail(table, keys))
            ends = np.cumsum([len(keyed.slots[name].keys_T) for name in names])
            slots.update(zip(names, np.split(rows_T, ends[:-1]), strict=True))
        log = keyed.slots[LOG]
        assert log.lengths is not None
        values_E = values_of_log(log.keys_T, rows_of_log, tables.catalogue) if self._evidence_slots else {}
        return Rows(slots, KnownLogs(log.lengths, keyed.log_action_E, keyed.log_age_E, values_E))

    def evidence(self, keyed: KeyedBatch, logs: KnownLogs, newest_KB: I64) -> F32 | None:
        """[K, N, S, COLUMNS]: what the newest so many events of each log say; None where no slot is configured."""
        if not self._evidence_slots:
            return None
        everything_N = np.zeros(len(keyed.request_of_N), np.uint64)
        candidates = {
            name: everything_N if name == ANY else first_values(keyed.slots[name]) for name in self._evidence_slots
        }
        return count_evidence(logs, candidates, Moments.now(logs.lengths_B), keyed.request_of_N, newest_KB)

    def assemble(self, keyed: KeyedBatch, rows: Mapping[str, I64], evidence_KNSC: F32 | None) -> Batch:
        """Makes the batch of keys and of their rows by slot, with the first K's counts."""
        slots = {
            name: SlotValues(
                torch.from_numpy(rows[name]), None if slot.lengths is None else torch.from_numpy(slot.lengths)
            )
            for name, slot in keyed.slots.items()
        }
        return Batch(
            request_of_N=torch.from_numpy(keyed.request_of_N),
            slots=slots,
            dense_user_BF=torch.from_numpy(keyed.dense_user_BF),
            dense_item_NF=torch.from_numpy(keyed.dense_item_NF),
            log_action_E=torch.from_numpy(keyed.log_action_E),
            log_surface_E=torch.from_numpy(keyed.log_surface_E),
            log_age_E=torch.from_numpy(keyed.log_age_E),
            log_value_E=torch.from_numpy(keyed.log_value_E),
            longest=_longest(keyed.slots[LOG]),
            evidence_NSC=None if evidence_KNSC is None else torch.from_numpy(evidence_KNSC[0]),
        )

    def past(
        self,
        users: Mapping[str, SlotKeys],
        logs: KnownLogs,
        newest_KB: I64,
        event_ms_B: I64,
        began_ms: int,
        draws_BP: U64,
    ) -> Past:
        """Past pages of the logs, from before `began_ms`, as the newest so many events before each tell them.

        users: keys of the requests' slots of side `user`. event_ms_B: when they were asked.
        """
        logs = logs.by_time()
        pages = past_pages(
            logs.action_E,
            logs.age_E,
            logs.values_E[ITEM][0],
            np.logical_and.reduce([known for _, known in logs.values_E.values()]),
            logs.lengths_B,
            least_ages(event_ms_B, began_ms),
            draws_BP,
        )
        shown = {name: logs.values_E[name][0][pages.event_M] for name in self._evidence_slots}
        newest_KP = newest_KB[:, pages.moments.request_P]
        evidence_KMSC = count_evidence(logs, shown, pages.moments, pages.page_of_M, newest_KP)
        request_of_M = pages.moments.request_P[pages.page_of_M]
        crosses = None
        if self._past_crosses is not None:
            then_s_M = event_ms_B[request_of_M] / 1000 - pages.moments.age_s_P[pages.page_of_M]
            if HOUR in {slot.name for slot in self._context_slots}:
                shown[HOUR] = _HOUR_KEYS[(then_s_M // 3_600 % 24).astype(np.int64)]
            slots = {slot.name: users[slot.name] for slot in self._user_slots}
            slots |= {name: SlotKeys(value_M, None) for name, value_M in shown.items()}
            keys_T = self._past_crosses.keys(slots, request_of_M, frozenset(shown)).keys_T
            crosses = self.tail(CROSSES, keys_T).reshape(len(request_of_M), len(self._config.past_crosses))
        return Past(request_of_M, evidence_KMSC, crosses, pages.click_M)

    def tail(self, table: str, keys: U64) -> I64:
        """The tail row that each key reads while it has none of its own."""
        config = self._tables[table]
        return (keys % np.uint64(config.tail_rows)).astype(np.int64) + config.rows


def _newest(logs: Sequence[npt.NDArray[np.void]], log_length: int) -> tuple[npt.NDArray[np.void], I64]:
    """Returns the newest so many events of each log, back to back, and how many each has."""
    logs = [log[max(0, len(log) - log_length) :] for log in logs]
    events = logs[0] if len(logs) == 1 else np.concatenate([np.empty(0, LOG_DTYPE), *logs])
    return events, np.array([len(log) for log in logs], np.int64)


def own_rows(keys: U64, key_map: KeyMap) -> I64:
    """Returns the row of each key; -1 where it has none of its own."""
    return key_map.find(keys) if key_map.num_rows else np.full(len(keys), -1)


def values_of_log(item_E: U64, row_E: I64, catalogue: Catalogue) -> dict[str, tuple[U64, npt.NDArray[np.bool_]]]:
    """Returns, by slot, the value of each event's item, and whether it is known. row_E: rows of the items, -1: none."""
    values_E = catalogue.values(row_E) if catalogue.slots else {}
    values_E[ITEM] = item_E, np.ones(len(item_E), np.bool_)
    values_E[ANY] = np.zeros(len(item_E), np.uint64), np.ones(len(item_E), np.bool_)
    return values_E


def _longest(log: SlotKeys) -> int:
    assert log.lengths is not None
    return int(log.lengths.max(initial=0))


def _user_values(slot: Slot, requests: Sequence[ScoringRequest]) -> list[object]:
    if slot.name == USER:
        return [r.user for r in requests]
    return [r.features.get(slot.name, "") for r in requests]


def _context_values(slot: Slot, requests: Sequence[ScoringRequest]) -> list[object]:
    if slot.name == SURFACE:
        return [r.surface for r in requests]
    if slot.name == HOUR:
        return [str(r.event_ms // _MS_PER_HOUR % 24) for r in requests]
    return [r.context.get(slot.name, "") for r in requests]


def _item_values(slot: Slot, requests: Sequence[ScoringRequest]) -> list[object]:
    if slot.name == ITEM:
        return [item for r in requests for item in r.items]
    name = slot.name
    return [features.get(name, "") for r in requests for features in r.item_features]


def _numbers(slots: tuple[Slot, ...], features: Sequence[Features]) -> F32:
    numbers = np.empty((len(features), len(slots)), np.float64)
    for place, slot in enumerate(slots):
        values = [f.get(slot.name) for f in features]
        # The hot loop of a large request: a call for each value is spared where all are of a kind.
        plain = set(map(type, values)) <= _PLAIN
        numbers[:, place] = values if plain else [_number(value) for value in values]
    return _squash(numbers)


def _number(value: object) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) else 0.0
    except OverflowError:  # JSON's integers have no bound
        return 0.0
    return number if math.isfinite(number) else 0.0


def _squash(values: npt.NDArray[np.float64]) -> F32:
    finite = np.where(np.isfinite(values), values, 0.0)
    return (np.sign(finite) * np.log1p(np.abs(finite))).astype(np.float32)


def _codes(codes: npt.NDArray[np.uint8], name: str) -> I64:
    if codes.max(initial=0) >= MAX_CODE:
        raise ValueError(f"{name} codes of log events must be below {MAX_CODE}, got {codes.max()}")
    return codes.astype(np.int64)


_HOUR_KEYS = keys_of({HOUR: [str(hour) for hour in range(24)]})[HOUR].keys_T
"""Keys of the hours, from 0."""
