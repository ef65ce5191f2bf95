"""How well variants of a tier predict the same labels, which none of them learns from."""

# N labelled impressions of a batch, H the two heads (0 click, 1 conversion).

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ranker.arrays import F64
from ranker.config import ModelConfig
from ranker.grades import BaseRate, log_loss
from ranker.inputs.batch import Batch
from ranker.inputs.features import Featurizer
from ranker.inputs.requests import LabelledRequest
from ranker.inputs.tables import PlainTables
from ranker.model.tier import Logits, Tier

_REQUESTS = 64
"""Requests in a batch."""


@dataclass(frozen=True, slots=True)
class Change:
    """Relative change of the log loss: 0.0002 is a loss of 0.02 % of normalized entropy, as both have the same base."""

    loss: float
    error: float
    """Half the 95 % interval of `loss`, from the differences label by label."""

    @property
    def interval(self) -> tuple[float, float]:
        return self.loss - self.error, self.loss + self.error

    def sample_growth(self, budget: float) -> float:
        """How many times the labels would put the whole interval within the budget, were the loss the same.

        At most 1 where they do already (the interval shrinks with the root of their number); inf where none would.
        """
        if self.error == 0 and self.loss <= budget:
            return 0.0
        return (self.error / (budget - self.loss)) ** 2 if self.loss < budget else math.inf


class HeldOut:
    """Labelled responses, looked up once; the tables must not change meanwhile."""

    def __init__(
        self, config: ModelConfig, tier: str, tables: PlainTables, examples: Sequence[LabelledRequest]
    ) -> None:
        """Raises ValueError without labels of both classes: there is no entropy to normalize by."""
        self.tables = tables
        self._batches: list[tuple[Batch, Tensor]] = []
        featurizer, length = Featurizer(config), config.tier(tier).log_length
        for start in range(0, len(examples), _REQUESTS):
            some = examples[start : start + _REQUESTS]
            batch = featurizer.batch(featurizer.keys([e.request for e in some], length), tables)
            labels = [np.concatenate([getattr(e, name) for e in some]) for name in ("click_N", "conversion_N")]
            self._batches.append((batch, torch.from_numpy(np.stack(labels, axis=1))))
        self._base = self._base_loss()
        if not self._base > 0:
            raise ValueError(f"{len(examples)} responses have no labels of both classes: sample more traffic")

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        """Batches with their labels, float32 [N, H], nan where there is none."""
        return iter(self._batches)

    @property
    def labels(self) -> int:
        return int(sum((~labels_NH.isnan()).sum() for _, labels_NH in self._batches))

    def losses(self, tier: Tier) -> F64:
        """The log loss of each label, as serving predicts it; in an order of its own, always the same."""
        found = []
        with torch.inference_mode():
            for batch, labels_NH in self._batches:
                found.append(label_losses(tier(batch, self.tables, None), labels_NH).double().numpy())
        return np.concatenate(found)

    def normalized_entropy(self, losses: F64) -> float:
        """Returns the loss over that of the mean label of each kind (He et al., 2014)."""
        return float(losses.sum()) / self._base

    def _base_loss(self) -> float:
        total = 0.0
        for head_N in torch.cat([labels_NH for _, labels_NH in self._batches] or [torch.empty(0, 2)]).T.numpy():
            known_N, rate = head_N[~np.isnan(head_N)], BaseRate(prior_labels=0)
            rate.observe(known_N)
            if rate.count:
                mean_N = np.full(len(known_N), rate.mean, np.float32)
                total += log_loss(known_N.astype(np.float64), mean_N)
        return total


def label_losses(logits: Logits, labels_NH: Tensor) -> Tensor:
    """The log loss of each label there is, clicks and then conversions. Differentiable."""
    logits_NH = torch.stack([logits.click_N, logits.conversion_N], dim=1)
    known_NH = ~labels_NH.isnan()
    return torch.cat(
        [
            torch.nn.functional.binary_cross_entropy_with_logits(
                logits_NH[known_NH[:, head], head], labels_NH[known_NH[:, head], head], reduction="none"
            )
            for head in range(2)
        ]
    )


def compare(before: F64, after: F64) -> Change:
    """Compares two results of `losses` on the same labels."""
    difference, total = after - before, float(before.sum())
    error = 1.96 * float(difference.std()) * len(difference) ** 0.5
    return Change(loss=float(difference.sum()) / total, error=error / total)
