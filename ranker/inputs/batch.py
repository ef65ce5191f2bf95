"""The model's input: several requests with their candidates, as tensors.

B requests, N candidates over all of them, T values of a slot, E log events over all requests, F dense features.
"""

from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SlotValues:
    """The values of one categorical slot, back to back.

    rows_T: int64, rows of the slot's table.
    lengths: int64 [B] (user, context, log) or [N] (candidate): values of each; None where each has exactly one.
    """

    rows_T: Tensor
    lengths: Tensor | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests with their candidates.

    A missing category is a category of its own, so no slot has length 0 but `log`, whose lengths are never None.
    """

    request_of_N: Tensor
    """int64, ascending: the request of each candidate."""
    slots: dict[str, SlotValues]
    """By slot name; LOG holds the log's items, oldest first."""
    dense_user_BF: Tensor
    """float32: numeric slots of user and context, in the configuration's order; 0 where missing."""
    dense_item_NF: Tensor
    """float32: numeric slots of the candidates."""
    log_action_E: Tensor
    """int64 below 32."""
    log_surface_E: Tensor
    """int64 below 32."""
    log_age_E: Tensor
    """float32: log1p of seconds between event and request."""
    log_value_E: Tensor
    """float32."""
    longest: int
    """The longest log's length: known to who makes the batch, so that nobody waits for a device to learn it."""
    evidence_NSC: Tensor | None = None
    """float32: what the log says of each candidate's values of the configured slots (ranker/inputs/evidence.py). None
    where no slot is configured."""

    def to(self, device: torch.device) -> "Batch":
        """The same on another device; itself where it is there."""
        if self.request_of_N.device == device:
            return self
        tensors: dict[str, Tensor | None] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NO_TENSOR
        }
        moved: dict[str, Any] = {name: t if t is None else t.to(device) for name, t in tensors.items()}
        slots = {
            name: SlotValues(v.rows_T.to(device), None if v.lengths is None else v.lengths.to(device))
            for name, v in self.slots.items()
        }
        return Batch(slots=slots, longest=self.longest, **moved)

    @property
    def num_requests(self) -> int:
        return self.dense_user_BF.shape[0]

    @property
    def num_candidates(self) -> int:
        return self.request_of_N.shape[0]


_NO_TENSOR = ("slots", "longest")


@dataclass(frozen=True, slots=True)
class PastBatch:
    """Impressions of past pages, M over all requests (ranker/inputs/past.py)."""

    evidence_MSC: Tensor
    """float32, of the log as it was then."""
    crosses: SlotValues | None
    """The model's past crosses; None where it has none."""
    click_M: Tensor
    """float32."""


class Embedder(Protocol):
    """Where embeddings come from: plain tensors in serving, TorchRec collections in training.

    Injected into the model, which so needs neither TorchRec nor FBGEMM at import.
    """

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        """rows_T of each slot → float32 [T, width]."""
        ...

    def pool(self, values_TD: Tensor, lengths: Tensor) -> Tensor:
        """Mean of each one's values: [len(lengths), width]; zeros where the length is 0."""
        ...

    def pad(self, values_ED: Tensor, lengths_B: Tensor, length: int) -> Tensor:
        """Back to back → [B, length, width], oldest first, zeros behind; a longer one keeps its first `length`."""
        ...
