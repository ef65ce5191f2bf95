"""Lighter tiers learn from the heaviest one's scores, online, on the responses that both learn from.

The scores are the soft labels of an auxiliary head (Hinton et al., 2015; an auxiliary head of its own, so that a
teacher's bias reaches what is shared below and not the probabilities that are served: Liang et al., 2025, "External
Large Foundation Model", section 4).
"""

# N candidates of a lesson, S of them known to the teacher too.

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.config import ModelConfig
from ranker.learning.lessons import Lesson
from ranker.model.tier import Logits


def distillation_loss(config: ModelConfig, lessons: Sequence[Lesson], logits: Sequence[Logits]) -> Tensor:
    """Sum, over tiers and candidates that the heaviest tier scored as well, of both heads' cross-entropies.

    lessons and logits: one for each tier that learns in this step. Nothing flows back into the teacher.
    """
    by_tier = {lesson.tier: (lesson, out) for lesson, out in zip(lessons, logits, strict=True)}
    total = torch.zeros(())
    if config.tiers[-1].name not in by_tier:
        return total
    teacher, scores = by_tier[config.tiers[-1].name]
    probability_NH = torch.sigmoid(torch.stack([scores.click_N, scores.conversion_N], dim=1)).detach()
    for lesson, out in zip(lessons, logits, strict=True):
        if out.distilled_NH is not None and lesson is not teacher:
            own_S, its_S = (torch.from_numpy(rows) for rows in _shared(lesson, teacher))
            total = total + F.binary_cross_entropy_with_logits(
                out.distilled_NH[own_S], probability_NH[its_S], reduction="sum"
            )
    return total


def _shared(lesson: Lesson, teacher: Lesson) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the candidates that both lessons have, in each."""
    both = np.intersect1d(lesson.examples, teacher.examples)
    return _rows_of(lesson, both), _rows_of(teacher, both)


def _rows_of(lesson: Lesson, examples: np.ndarray) -> np.ndarray:
    """Candidates of these examples, in their order."""
    example_of_N = np.asarray(lesson.examples)[lesson.keyed.request_of_N]
    return np.flatnonzero(np.isin(example_of_N, examples))
