"""Tokens of slots, and the events of the log: what the stacks and the encoder read."""

# B requests, N candidates, n either, T tokens, E log events, F dense features, D token width.

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.config import LOG, Slot
from ranker.inputs.batch import Batch, Embedder, SlotValues
from ranker.model.init import BESIDE_EMBEDDINGS, linear, normal
from ranker.model.mlp import Mlp

ACTIONS = 32
SURFACES = 32
"""Bounds of log_action_E and log_surface_E: 5 bits each in a stored event."""


def slot_tokens(slots: Iterable[Slot], batch: Batch, embedded: dict[str, Tensor], embedder: Embedder) -> list[Tensor]:
    """One token [n, D] a slot; of a slot with several values, their mean."""
    tokens = []
    for slot in slots:
        values_TD, lengths = embedded[slot.name], batch.slots[slot.name].lengths
        tokens.append(values_TD if lengths is None else embedder.pool(values_TD, lengths))
    return tokens


class DenseToken(nn.Module):
    """The dense features of one side as one token. asinh keeps sign and order, and tames counts and prices."""

    def __init__(self, features: int, hidden: int, width: int) -> None:
        super().__init__()
        self.mlp = Mlp(features, hidden, width, gain=BESIDE_EMBEDDINGS)

    def forward(self, dense_nF: Tensor) -> Tensor:
        token_nD: Tensor = self.mlp(torch.asinh(dense_nF))
        return token_nD


@dataclass(frozen=True, slots=True)
class Log:
    """The newest events of each request's log, back to back, oldest first. Fields as in Batch."""

    items: SlotValues
    lengths_B: Tensor
    longest: int
    action_E: Tensor
    surface_E: Tensor
    age_E: Tensor
    value_E: Tensor


def newest(batch: Batch, limit: int) -> Log:
    """The newest `limit` events of each log."""
    items = batch.slots[LOG]
    if items.lengths is None:
        raise ValueError(f"slot {LOG!r} needs lengths [B]: its logs are back to back")
    fields = (batch.log_action_E, batch.log_surface_E, batch.log_age_E, batch.log_value_E)
    if batch.longest <= limit:
        return Log(items, items.lengths, batch.longest, *fields)
    if batch.num_requests == 1:
        kept_1 = items.lengths.new_full((1,), limit)
        return Log(SlotValues(items.rows_T[-limit:], kept_1), kept_1, limit, *(field_E[-limit:] for field_E in fields))
    kept_B = items.lengths.clamp(max=limit)
    # Event e of the result lies, in the batch, behind all that was dropped of its log and of those before it.
    dropped_B = (items.lengths - kept_B).cumsum(0)
    dropped_E = torch.repeat_interleave(dropped_B, kept_B)
    index_E = torch.arange(dropped_E.shape[0], device=dropped_E.device) + dropped_E
    return Log(
        SlotValues(items.rows_T.index_select(0, index_E), kept_B),
        kept_B,
        limit,
        *(field_E.index_select(0, index_E) for field_E in fields),
    )


class EventTokens(nn.Module):
    """An event as a token: embeddings of item, action and surface, and a projection of its age and value, summed.

    Age is log seconds, read through waves whose periods halve from 32 (all of time) to 4 (a factor of 55).
    """

    waves: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.action = normal(ACTIONS, width, fan_in=width)
        self.surface = normal(SURFACES, width, fan_in=width)
        self.time_value = linear(9, width)
        periods = torch.tensor([32.0, 16.0, 8.0, 4.0])
        self.register_buffer("waves", 2 * torch.pi / periods, persistent=False)

    def forward(self, log: Log, item_ED: Tensor) -> Tensor:
        angle_E4 = log.age_E.unsqueeze(1) * self.waves
        inputs_E9 = torch.cat([angle_E4.cos(), angle_E4.sin(), torch.asinh(log.value_E).unsqueeze(1)], dim=1)
        token_ED: Tensor = item_ED + self.time_value(inputs_E9)
        return token_ED + F.embedding(log.action_E, self.action) + F.embedding(log.surface_E, self.surface)
