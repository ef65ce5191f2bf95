"""Which tier teaches the shared rows: of the tiers that learn from a response, the heaviest alone.

Rows that two tiers pull at serve neither: learning beside a light tier, a heavy one predicted worse than alone. What a
lighter tier gives up is little, as the heavier one knows more of what a row is good for.
"""

# B requests, N candidates, T values of a slot, D embedding width.

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from ranker.config import CROSSES, LOG
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
        self.found: list[tuple[Tensor, Tensor]] = []
        """Rows, and their values that were looked up before."""

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        found = {name: self._held(v.rows_T) for name, v in slots.items()}
        lacking = {name: v for name, v in slots.items() if found[name] is None}
        embedded = self._embedder.embed(lacking) if lacking else {}
        cut = {name: cut_off(v_TD, self.mask(name, slots[name].lengths)) for name, v_TD in embedded.items()}
        return cut | {name: v_TD for name, v_TD in found.items() if v_TD is not None}

    def mask(self, slot: str, lengths: Tensor | None) -> Tensor:
        """Bool [T]: which of a slot's values reach back."""
        teaches = self._teaches_N if slot in self._item_slots else self._teaches_B
        return teaches if lengths is None else torch.repeat_interleave(teaches, lengths)

    def _held(self, rows_T: Tensor) -> Tensor | None:
        return next((values_TD for rows, values_TD in self.found if rows is rows_T), None)


def cut_off(values_TD: Tensor, teaches_T: Tensor) -> Tensor:
    """The same values, of which only these reach back."""
    return values_TD if teaches_T.all() else torch.where(teaches_T.unsqueeze(1), values_TD, values_TD.detach())


def taught_together(embedder: Embedder, lessons: Sequence[Lesson], item_slots: frozenset[str]) -> list[Taught]:
    """An embedder for each lesson, cheapest tier first, and for its past pages, which teach alone what they read.

    What the lessons read of a slot is looked up in one call for all; only logs, which few tiers read, are left for
    when they are.
    """
    taught = [Taught(embedder, x, of, item_slots) for x, of in zip(lessons, teaches(lessons), strict=True)]
    readers: defaultdict[str, list[tuple[Taught, Tensor, Tensor]]] = defaultdict(list)
    for by, lesson in zip(taught, lessons, strict=True):
        for name, values in lesson.batch.slots.items():
            if name != LOG:
                readers[name].append((by, values.rows_T, by.mask(name, values.lengths)))
        if lesson.past is not None and lesson.past.crosses is not None:
            rows_T = lesson.past.crosses.rows_T
            readers[CROSSES].append((by, rows_T, torch.ones(len(rows_T), dtype=torch.bool)))
    together = {name: SlotValues(torch.cat([rows for _, rows, _ in of]), None) for name, of in readers.items()}
    for name, values_TD in (embedder.embed(together) if together else {}).items():
        cut_TD = cut_off(values_TD, torch.cat([mask for *_, mask in readers[name]]))
        parts = torch.split(cut_TD, [len(rows) for _, rows, _ in readers[name]])
        for (by, rows, _), part_TD in zip(readers[name], parts, strict=True):
            by.found.append((rows, part_TD))
    return taught
