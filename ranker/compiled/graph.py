"""What is compiled of a tier: its forward for one request in serving, over weights that stay where they are.

A graph takes a request's numbers as a few tensors and gives both probabilities of each candidate. Requests that it does
not know (with several values in a slot, or too short a log) are the tier's own to score: `inputs` says which.
"""

# N candidates, E log events.

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ranker.config import CROSSES, LOG, STATISTICS, ModelConfig
from ranker.inputs.batch import Batch, SlotValues
from ranker.inputs.requests import ScoringRequest
from ranker.inputs.tables import table_of_slots
from ranker.model.tier import Tier
from ranker.model.tokens import newest

SMALLEST = 2
"""Candidates, and log events, that a graph takes at least: of 0 and of 1 it would be another graph."""


class TierGraph(nn.Module):
    """A tier, with the tables' weights as buffers beside its own: all that a compiled graph reads is in here."""

    def __init__(self, model: ModelConfig, tier: Tier, weights: Mapping[str, Tensor]) -> None:
        """weights: by table."""
        super().__init__()
        self.tier = tier
        self.tables = _Tables(model, weights)
        self.read_length = tier.config.read_length
        """Most events of a log that the graph takes."""
        self._slots = [slot.name for slot in (*tier.user_slots, *tier.item_slots)]
        counts = {CROSSES: tier.crosses, STATISTICS: tier.counted}
        self._hashed = {name: count for name, count in counts.items() if count}
        requests = ["request"] * len(tier.user_slots)
        candidates = ["candidates"] * (len(tier.item_slots) + len(self._hashed))
        self.sizes = [*requests, *candidates, "request", "candidates"]
        """What the first size of each input counts: "request" (one), "candidates" or "events"."""
        self.sizes += ["events"] * (5 if self.read_length else 0) + ["candidates"] * (tier.evidence is not None)

    def fits(self, request: ScoringRequest) -> bool:
        """Whether the request is of a size that the graph takes."""
        enough = not self.read_length or len(request.log) >= SMALLEST
        return enough and len(request.items) >= SMALLEST

    def inputs(self, batch: Batch) -> list[tuple[Tensor, ...]] | None:
        """Returns what the graph takes of each request; None where it does not know one of them."""
        slots = batch.slots
        if any(slots[name].lengths is not None for name in self._slots):
            return None
        tensors = [slots[name].rows_T for name in self._slots]
        tensors += [slots[name].rows_T.view(-1, count) for name, count in self._hashed.items()]
        tensors += [batch.dense_user_BF, batch.dense_item_NF]
        events: list[int] = []
        if self.read_length:
            log = newest(batch, self.read_length)
            events = log.lengths_B.tolist()
            if min(events) < SMALLEST:
                return None
            tensors += [log.items.rows_T, log.action_E, log.surface_E, log.age_E, log.value_E]
        if self.tier.evidence is not None and batch.evidence_NSC is not None:
            tensors.append(batch.evidence_NSC)
        if batch.num_requests == 1:
            return [tuple(tensors)] if batch.num_candidates >= SMALLEST else None
        candidates = torch.bincount(batch.request_of_N, minlength=batch.num_requests).tolist()
        if min(candidates) < SMALLEST:
            return None
        parts: dict[str, int | list[int]] = {
            "request": 1,
            "candidates": candidates,
            "events": events,
        }
        split = [torch.split(tensor, parts[of]) for tensor, of in zip(tensors, self.sizes, strict=True)]
        return list(zip(*split, strict=True))

    def forward(self, *tensors: Tensor) -> Tensor:
        """Probabilities [2, N] of a click and of a conversion. tensors: see `inputs`."""
        given = iter(tensors)
        slots = {name: SlotValues(next(given), None) for name in self._slots}
        for name, count in self._hashed.items():
            rows_NC = next(given)
            slots[name] = SlotValues(rows_NC.flatten(), rows_NC.new_full((rows_NC.shape[0],), count))
        dense_user_BF, dense_item_NF = next(given), next(given)
        log = [torch.empty(0, dtype=torch.int64)] * 3 + [torch.empty(0)] * 2
        if self.read_length:
            log = [next(given) for _ in range(5)]
        rows_E, action_E, surface_E, age_E, value_E = log
        longest = rows_E.shape[0]
        slots[LOG] = SlotValues(rows_E, rows_E.new_full((1,), longest))
        batch = Batch(
            request_of_N=torch.zeros(dense_item_NF.shape[0], dtype=torch.int64),
            slots=slots,
            dense_user_BF=dense_user_BF,
            dense_item_NF=dense_item_NF,
            log_action_E=action_E,
            log_surface_E=surface_E,
            log_age_E=age_E,
            log_value_E=value_E,
            longest=longest,
            evidence_NSC=next(given, None),
        )
        logits = self.tier(batch, self.tables, None)
        return torch.sigmoid(torch.stack([logits.click_N, logits.conversion_N]))


class _Tables(nn.Module):
    """The Embedder of a graph: one request, and slots of one value each."""

    def __init__(self, model: ModelConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        # A table's name may be one that a module has already.
        self._buffer_of = {slot: f"weights_of_{table}" for slot, table in table_of_slots(model).items()}
        for table, weights_RD in weights.items():
            self.register_buffer(f"weights_of_{table}", weights_RD)

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        return {name: F.embedding(v.rows_T, self.get_buffer(self._buffer_of[name])) for name, v in slots.items()}

    def pool(self, values_TD: Tensor, lengths: Tensor) -> Tensor:
        raise NotImplementedError("a graph takes slots of one value each")

    def pad(self, values_ED: Tensor, lengths_B: Tensor, length: int) -> Tensor:
        raise NotImplementedError("a graph takes one request")
