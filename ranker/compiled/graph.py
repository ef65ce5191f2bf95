"""What is compiled of a tier: its serving of one request, from keys to probabilities, over a replica's live state.

A graph takes the keys of a request and gives the probabilities of each candidate: it looks keys up, crosses them,
counts the log and runs the tier's forward, all as a few loops over memory that stays where it is. Requests that it
does not know (with several values in a slot, or too short a log) are the tier's own to score, and `inputs` says which;
so are the rare ones of which the graph itself says that it is not sure.
"""

# N candidates, U slots of users and contexts, S of candidates, E log events, R events that attention reads.

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ranker.arrays import U64
from ranker.compiled.counts import LogCounts
from ranker.compiled.keys import TableRows, crossed
from ranker.config import ANY, CROSSES, ITEM, LOG, STATISTICS, ModelConfig
from ranker.inputs.batch import Batch, SlotValues
from ranker.inputs.features import KeyedBatch
from ranker.inputs.requests import ScoringRequest
from ranker.inputs.statistics import MEMORIES, SHOWN
from ranker.inputs.tables import PlainTables, table_of_slots
from ranker.model.tier import Tier

SMALLEST = 2
"""Candidates, and log events, that a graph takes at least: of 0 and of 1 it would be another graph."""


class TierGraph(nn.Module):
    """A tier with the tables, key maps and catalogue of a replica: all that a compiled graph reads is in here."""

    catalogue: Tensor

    def __init__(self, model: ModelConfig, tier: Tier, tables: PlainTables) -> None:
        super().__init__()
        self.tier = tier
        self.tables = _Tables(model, tables)
        self.counts = LogCounts()
        self.register_buffer("catalogue", torch.from_numpy(tables.catalogue.entry_RS.view(np.int64)))
        self._log_length, self.read_length = tier.config.log_length, tier.config.read_length
        self._catalogued = tables.catalogue.slots
        self._users = [slot.name for slot in tier.user_slots]
        self._items = [slot.name for slot in tier.item_slots]
        self._counted = model.evidence if tier.evidence is not None else ()
        self._crosses = {name: of for name, of in ((CROSSES, model.crosses), (STATISTICS, model.statistics)) if of}
        self._item_statistic = model.statistics.index((ITEM,)) if (ITEM,) in model.statistics else None
        self.sizes: list[dict[int, str]] = [{}, {1: "candidates"}, {}, {0: "candidates"}]
        """By input, its sizes that may be any: "candidates", "events" or "read"."""
        self.sizes += [{0: "events"}] * 3 * bool(self._counted)
        # A log of the fewest events that a graph takes has all that so short a reading reads.
        self.sizes += [{0: "read"} if self.read_length > SMALLEST else {}] * 5 * bool(self.read_length)

    def fits(self, request: ScoringRequest) -> bool:
        """Whether the request is of a size that the graph takes."""
        return self._takes(len(request.items), len(request.log))

    def _takes(self, candidates: int, events: int) -> bool:
        events = min(events, self._log_length)
        return candidates >= SMALLEST and (events >= SMALLEST or not (self._counted or self.read_length))

    def inputs(self, keyed: KeyedBatch) -> list[tuple[Tensor, ...]] | None:
        """Returns what the graph takes of each request; None where it does not know one of them."""
        slots, requests = keyed.slots, len(keyed.dense_user_BF)
        if any(slots[name].lengths is not None for name in (*self._users, *self._items)):
            return None
        lengths_B = slots[LOG].lengths
        assert lengths_B is not None
        users_UB = _stacked([slots[name].keys_T for name in self._users], requests)
        items_SN = _stacked([slots[name].keys_T for name in self._items], len(keyed.request_of_N))
        dense_BF, dense_NF = torch.from_numpy(keyed.dense_user_BF), torch.from_numpy(keyed.dense_item_NF)
        codes = keyed.log_action_E, keyed.log_age_E, keyed.log_surface_E, keyed.log_value_E
        log = [_bits(slots[LOG].keys_T), *map(torch.from_numpy, codes)]
        firsts = np.searchsorted(keyed.request_of_N, np.arange(requests + 1)).tolist()
        oldest = [0, *np.cumsum(lengths_B).tolist()]
        found = []
        for b in range(requests):
            candidates, events = slice(firsts[b], firsts[b + 1]), slice(oldest[b], oldest[b + 1])
            if not self._takes(candidates.stop - candidates.start, events.stop - events.start):
                return None
            # Keys lie as in what the graph was compiled for.
            tensors = [users_UB[:, b].contiguous(), items_SN[:, candidates].contiguous()]
            tensors += [dense_BF[b : b + 1], dense_NF[candidates]]
            if self._counted:
                tensors += [x_E[events] for x_E in log[:3]]
            if self.read_length:
                newest = slice(max(events.start, events.stop - self.read_length), events.stop)
                tensors += [x_E[newest] for x_E in log]
            found.append(tuple(tensors))
        return found

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of a click and of a conversion, and where items are counted their impressions [2 or 3, N]; and
        whether they are to be computed another way, as the graph is not sure. tensors: see `inputs`."""
        given = iter(tensors)
        user_U, item_SN, dense_user_1F, dense_item_NF = (next(given) for _ in range(4))
        keys = dict(zip(self._users, user_U, strict=True)) | dict(zip(self._items, item_SN, strict=True))
        slots, doubts = self.tables.slots(keys)
        N = dense_item_NF.shape[0]
        for name, crosses in self._crosses.items():
            key_NC = crossed(keys, crosses, name, N)
            rows_T, _ = self.tables.of(name).rows(key_NC.flatten())
            slots[name] = SlotValues(rows_T, key_NC.new_full((key_NC.shape[0],), len(crosses)))
        evidence_NSC = None
        if self._counted:
            evidence_NSC, doubt = self._evidence(keys, *(next(given) for _ in range(3)))
            doubts.append(doubt)
        log = [next(given, torch.empty(0)) for _ in range(5)]
        slots[LOG], doubt = self._read(log[0])
        batch = Batch(
            request_of_N=torch.zeros(N, dtype=torch.int64),
            slots=slots,
            dense_user_BF=dense_user_1F,
            dense_item_NF=dense_item_NF,
            log_action_E=log[1],
            log_age_E=log[2],
            log_surface_E=log[3],
            log_value_E=log[4],
            longest=log[0].shape[0],
            evidence_NSC=evidence_NSC,
        )
        logits = self.tier(batch, self.tables, None)
        found = [torch.sigmoid(logits.click_N), torch.sigmoid(logits.conversion_N)]
        if self._item_statistic is not None:
            rows_N = slots[STATISTICS].rows_T.view(N, -1)[:, self._item_statistic]
            longer = len(MEMORIES) - 1
            found.append(MEMORIES[longer] * self.tables.of(STATISTICS).weights[rows_N, 2 * longer + SHOWN])
        return torch.stack(found), torch.stack([*doubts, doubt]).any()

    def _read(self, item_R: Tensor) -> tuple[SlotValues, Tensor]:
        """The events that attention reads, and whether a row is not sure."""
        rows_R, doubt = item_R.long(), torch.zeros((), dtype=torch.bool)
        if self.read_length:
            rows_R, doubt = self.tables.of(LOG).rows(item_R)
        return SlotValues(rows_R, rows_R.new_full((1,), item_R.shape[0])), doubt

    def _evidence(
        self, keys: dict[str, Tensor], item_E: Tensor, action_E: Tensor, age_E: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Featurizer.batch; and whether it is not sure."""
        row_E, doubt = self.tables.of(LOG).own(item_E) if self._catalogued else (item_E, torch.tensor(False))
        nothing_N, certain_E = torch.zeros_like(keys[self._items[0]]), torch.ones_like(item_E, dtype=torch.bool)
        candidates, values, known = [], [], []
        for name in self._counted:
            candidates.append(nothing_N if name == ANY else keys[name])
            if name in self._catalogued:
                value_E = self.catalogue[row_E.clamp(min=0), self._catalogued.index(name)]
                values.append(value_E)
                known.append((row_E >= 0) & (value_E != 0))
            else:
                values.append(item_E if name == ITEM else torch.zeros_like(item_E))
                known.append(certain_E)
        evidence_NSC, shared = self.counts(
            torch.stack(candidates), torch.stack(values), torch.stack(known), action_E, age_E
        )
        return evidence_NSC, doubt | shared


class _Tables(nn.Module):
    """The tables of a replica, and the Embedder of a graph: one request, and slots of one value each."""

    def __init__(self, model: ModelConfig, tables: PlainTables) -> None:
        super().__init__()
        names = list(tables.weights)
        configs = {table.name: table for table in model.every_table}
        # By place: a table's name may be one that a module has already.
        self._place_of = {slot: names.index(table) for slot, table in table_of_slots(model).items()}
        self.tables = nn.ModuleList(
            TableRows(configs[name], tables.weights[name], tables.key_maps[name]) for name in names
        )

    def of(self, slot: str) -> TableRows:
        table = self.tables[self._place_of[slot]]
        assert isinstance(table, TableRows)
        return table

    def slots(self, keys: dict[str, Tensor]) -> tuple[dict[str, SlotValues], list[Tensor]]:
        """Rows of slots' keys, [] of the request or [N], those of a table together; and where they are not sure."""
        found: dict[str, SlotValues] = {}
        doubts: list[Tensor] = []
        for place in sorted({self._place_of[name] for name in keys}):
            names = [name for name in keys if self._place_of[name] == place]
            rows_K, doubt = self.of(names[0]).rows(torch.cat([keys[name].reshape(-1) for name in names]))
            doubts.append(doubt)
            parts = torch.split(rows_K, [keys[name].numel() for name in names])
            found |= {name: SlotValues(part, None) for name, part in zip(names, parts, strict=True)}
        return found, doubts

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        return {name: F.embedding(v.rows_T, self.of(name).weights) for name, v in slots.items()}

    def pool(self, values_TD: Tensor, lengths: Tensor) -> Tensor:
        raise NotImplementedError("a graph takes slots of one value each")

    def pad(self, values_ED: Tensor, lengths_B: Tensor, length: int) -> Tensor:
        raise NotImplementedError("a graph takes one request")


def _stacked(keys: list[U64], size: int) -> Tensor:
    return _bits(np.stack(keys) if keys else np.empty((0, size), np.uint64))


def _bits(keys: U64) -> Tensor:
    """The int64 of the same bits."""
    return torch.from_numpy(keys.view(np.int64))
