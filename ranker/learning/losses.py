"""The loss of a lesson: over the labels there are, each as often as its policy says."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.arrays import F32
from ranker.config import LearnerConfig
from ranker.delayed.policies import POLICIES, Emission
from ranker.delayed.weights import Targets, is_positive, late_loss
from ranker.learning.lessons import Lesson
from ranker.model.tier import Logits


def with_soft(found: Targets, label_N: Tensor) -> Targets:
    return Targets(torch.where(label_N.isnan(), found.label_N, label_N), found.weight_N)


def corrected(emission_N: Tensor) -> F32:
    """Returns, for each positive example, 1 where it corrects what was said before, else 0."""
    of_positives: F32 = (emission_N[is_positive(emission_N)] == Emission.CORRECTED).numpy().astype(np.float32)
    return of_positives


def lesson_loss(
    logits: Logits, lesson: Lesson, clicks: Targets, conversions: Targets, settings: LearnerConfig
) -> Tensor:
    """Sum over the labels there are."""
    total = logits.click_N.new_zeros(())
    for logit_N, of_kind, weight in (
        (logits.click_N, clicks, 1.0),
        (logits.conversion_N, conversions, settings.conversion_weight),
    ):
        known_N = ~of_kind.label_N.isnan()
        total = total + weight * F.binary_cross_entropy_with_logits(
            logit_N[known_N], of_kind.label_N[known_N], weight=of_kind.weight_N[known_N], reduction="sum"
        )
    if POLICIES[settings.conversions].learns_late and logits.late_N is not None:
        total = total + late_loss(logits.late_N, lesson.emission_N)
    return total
