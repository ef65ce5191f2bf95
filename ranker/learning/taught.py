"""Which tier teaches the shared rows: of the tiers that learn from a response, the heaviest alone.

Rows that two tiers pull at serve neither: learning beside a light tier, a heavy one predicted worse than alone. What a
lighter tier gives up is little, as the heavier one knows more of what a row is good for.
"""

# B requests, N candidates, T values of a slot, D embedding width.

from collections.abc import Sequence

import torch
from torch import Tensor

from ranker.inputs.batch import Embedder, SlotValues
from ranker.learning.lessons import Lesson


def teaches(lessons: Sequence[Lesson]) -> list[Tensor]:
    """Bool [B] for each lesson, cheapest tier first: which of its requests no heavier lesson has."""
    taken: set[int] = set()
    found = []
    for lesson in reversed(lessons):
        found.append(torch.tensor([example not in taken for example in lesson.examples]))
        taken.update(lesson.examples)
    return found[::-1]


class Taught:
    """An embedder whose values reach back only into the rows of some requests; all are read alike."""

    def __init__(self, embedder: Embedder, lesson: Lesson, teaches_B: Tensor, item_slots: frozenset[str]) -> None:
        """item_slots: those of candidates; the others are of requests."""
        self._embedder, self._item_slots = embedder, item_slots
        self._teaches_B, self._teaches_N = teaches_B, teaches_B[lesson.batch.request_of_N]
        self.pool, self.pad = embedder.pool, embedder.pad

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        embedded = self._embedder.embed(slots)
        if bool(self._teaches_B.all()):
            return embedded
        return {name: self._cut(name, slots[name].lengths, values_TD) for name, values_TD in embedded.items()}

    def _cut(self, name: str, lengths: Tensor | None, values_TD: Tensor) -> Tensor:
        teaches = self._teaches_N if name in self._item_slots else self._teaches_B
        if lengths is not None:
            teaches = torch.repeat_interleave(teaches, lengths)
        return torch.where(teaches.unsqueeze(1), values_TD, values_TD.detach())
