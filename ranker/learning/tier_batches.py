"""What each tier reads of the responses it learns from: keys and rows are looked up, and logs counted, once for all."""

# B requests, P past pages a request, K log lengths, N candidates, E log events, T values of a slot.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ranker.arrays import I64, U64
from ranker.config import LOG, ModelConfig, TierConfig
from ranker.inputs.batch import Batch, PastBatch
from ranker.inputs.features import Featurizer, KeyedBatch, Lookup
from ranker.inputs.slot_keys import SlotKeys


@dataclass(frozen=True, slots=True)
class TierBatch:
    """Requests as one tier reads them."""

    keyed: KeyedBatch
    batch: Batch
    past: PastBatch | None


@dataclass(frozen=True, slots=True)
class PastDraws:
    """Which past pages the requests' logs are to give."""

    event_ms_B: I64
    """When each was asked for, in Unix milliseconds."""
    began_ms: int
    """Impressions from then on are examples of their own."""
    draws_BP: U64


def tier_batches(
    config: ModelConfig,
    featurizer: Featurizer,
    tables: Lookup,
    keyed: KeyedBatch,
    learners: Sequence[tuple[TierConfig, Sequence[int]]],
    draws: PastDraws | None,
) -> list[TierBatch]:
    """One for each tier.

    Args:
        keyed: keys of all requests, with logs at least as long as a tier reads them; past pages are drawn from all.
        learners: tiers, and the requests that each learns from, ascending.
        draws: None: no past pages.
    """
    rows = featurizer.rows(keyed, tables)
    lengths_K = np.unique([tier.log_length for tier, _ in learners])
    longest_B = np.zeros(len(rows.logs.lengths_B), np.int64)
    for tier, requests in learners:
        longest_B[requests] = np.maximum(longest_B[requests], tier.log_length)
    newest_KB = np.minimum(lengths_K[:, None], longest_B)  # of what no tier reads, nothing is counted
    evidence_KNSC = featurizer.evidence(keyed, rows.logs, newest_KB)
    past = None
    if draws is not None and config.evidence and lengths_K[-1]:
        past = featurizer.past(keyed.slots, rows.logs, newest_KB, draws.event_ms_B, draws.began_ms, draws.draws_BP)
    user_side = frozenset(slot.name for slot in config.slots if slot.side != "candidate")
    found = []
    for tier, requests in learners:
        part = _Part(keyed, requests, tier.log_length, user_side)
        k = int(np.searchsorted(lengths_K, tier.log_length))
        of_part, rows_of_part = part.take(keyed, rows.slots)
        counts_1NSC = None if evidence_KNSC is None else evidence_KNSC[k : k + 1, part.candidates]
        batch = featurizer.assemble(of_part, rows_of_part, counts_1NSC)
        past_of_part = past.part(k, part.chosen_B) if past is not None and tier.log_length else None
        found.append(TierBatch(of_part, batch, past_of_part))
    return found


class _Part:
    """Some requests of a batch, with the newest events of their logs."""

    def __init__(self, keyed: KeyedBatch, requests: Sequence[int], log_length: int, user_side: frozenset[str]) -> None:
        lengths_B = keyed.slots[LOG].lengths
        assert lengths_B is not None
        self.chosen_B = np.zeros(len(lengths_B), np.bool_)
        self.chosen_B[requests] = True
        self._requests = np.asarray(requests, np.int64)
        self._user_side = user_side
        (self.candidates,) = np.nonzero(self.chosen_B[keyed.request_of_N])
        self._kept_B = np.minimum(lengths_B, log_length)
        self._events = _stretches(np.cumsum(lengths_B)[requests] - self._kept_B[requests], self._kept_B[requests])

    def take(self, keyed: KeyedBatch, rows: Mapping[str, I64]) -> tuple[KeyedBatch, dict[str, I64]]:
        """Returns keys, and rows by slot, of the part."""
        slots, taken = {}, {}
        for name, slot in keyed.slots.items():
            index, lengths = self._of_slot(name, slot.lengths)
            slots[name], taken[name] = SlotKeys(slot.keys_T[index], lengths), rows[name][index]
        numbers_B = np.cumsum(self.chosen_B) - 1
        part = replace(
            keyed,
            request_of_N=numbers_B[keyed.request_of_N[self.candidates]],
            slots=slots,
            dense_user_BF=keyed.dense_user_BF[self._requests],
            dense_item_NF=keyed.dense_item_NF[self.candidates],
            log_action_E=keyed.log_action_E[self._events],
            log_surface_E=keyed.log_surface_E[self._events],
            log_age_E=keyed.log_age_E[self._events],
            log_value_E=keyed.log_value_E[self._events],
        )
        return part, taken

    def _of_slot(self, name: str, lengths: I64 | None) -> tuple[I64, I64 | None]:
        """Returns the places of the part's values, and how many each request or candidate has."""
        if name == LOG:
            return self._events, self._kept_B[self._requests]
        chosen = self._requests if name in self._user_side else self.candidates
        if lengths is None:
            return chosen, None
        return _stretches((np.cumsum(lengths) - lengths)[chosen], lengths[chosen]), lengths[chosen]


def _stretches(starts: I64, sizes: I64) -> I64:
    """Returns the places of stretches that begin there and are that long, one after the other."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())
