"""Predicted milliseconds of a plan, from what such plans took here. Knows nothing of values or prices."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_CANDIDATES_UNIT = 100.0
_EVENTS_UNIT = 1000.0  # the features are near 1, so one ridge does for all


@dataclass(frozen=True, kw_only=True, slots=True)
class CostPrior:
    """What a plan is thought to take before it was measured, in milliseconds."""

    base_ms: float = 5.0
    per_100_candidates_ms: float = 1.0
    per_1000_events_ms: float = 1.0

    def __post_init__(self) -> None:
        if min(self.base_ms, self.per_100_candidates_ms, self.per_1000_events_ms) < 0:
            raise ValueError(f"a cost prior must not be negative, got {self}")


@dataclass(slots=True)
class _PlanCost:
    weights: Vector
    prior: Vector
    gram: Vector = field(default_factory=lambda: np.zeros((3, 3)))
    moment: Vector = field(default_factory=lambda: np.zeros(3))
    seen: int = 0


class CostModel:
    """For each plan, milliseconds = base + a * candidates + b * log length, all three at least 0.

    Exponentially forgetting ridge regression towards the prior: the ridge never fades, so a feature that stops
    varying falls back to its prior and cannot run away. A measurement is taken as at most `clip` times its
    prediction, so that one stall of seconds is not believed, and a lasting change is, within a few requests.
    """

    def __init__(
        self,
        priors: dict[str, CostPrior] | None = None,
        *,
        memory: int = 500,
        ridge: float = 1.0,
        clip: float = 4.0,
    ) -> None:
        """
        Args:
            priors: of the plans where something is known; others start at CostPrior().
            memory: how many requests of a plan weigh in, by their exponential mean.
            ridge: how many requests the prior counts for.
            clip: see above.
        """
        if memory < 1 or not ridge > 0 or not clip > 1:
            raise ValueError(f"want memory >= 1, ridge > 0, clip > 1; got {memory}, {ridge}, {clip}")
        self._priors = priors or {}
        self._keep = 1 - 1 / memory
        self._ridge = ridge
        self._clip = clip
        self._plans: dict[str, _PlanCost] = {}

    def predict(self, plan: str, candidates: int, log_length: int) -> float:
        """Milliseconds that this plan will take for a request of so many candidates and events in the user's log."""
        return float(self._of(plan).weights @ _features(candidates, log_length))

    def learn(self, plan: str, candidates: int, log_length: int, measured_ms: float) -> None:
        """Take in one measured cost. Raises ValueError, with nothing learned, if it is negative or not finite."""
        if not 0 <= measured_ms < float("inf"):
            raise ValueError(f"measured_ms of plan {plan!r} must be finite and >= 0, got {measured_ms}")
        cost = self._of(plan)
        x = _features(candidates, log_length)
        if cost.seen:  # before the first measurement the prediction is only a guess, nothing to hold against a fact
            measured_ms = min(measured_ms, self._clip * max(float(cost.weights @ x), 0.1))
        cost.gram = self._keep * cost.gram + np.outer(x, x)
        cost.moment = self._keep * cost.moment + measured_ms * x
        cost.seen += 1
        cost.weights = _solve(cost.gram + self._ridge * np.eye(3), cost.moment + self._ridge * cost.prior)

    def seen(self, plan: str) -> int:
        """How many measurements of this plan were learned."""
        return self._of(plan).seen

    def _of(self, plan: str) -> _PlanCost:
        if plan not in self._plans:
            p = self._priors.get(plan, CostPrior())
            prior = np.array([p.base_ms, p.per_100_candidates_ms, p.per_1000_events_ms])
            self._plans[plan] = _PlanCost(weights=prior.copy(), prior=prior)
        return self._plans[plan]


def _features(candidates: int, log_length: int) -> Vector:
    return np.array([1.0, candidates / _CANDIDATES_UNIT, log_length / _EVENTS_UNIT])


def _solve(gram: Vector, moment: Vector) -> Vector:
    """Least squares with all weights >= 0: what comes out negative is noise, and is left out of another fit."""
    weights = np.zeros(3)
    active = np.arange(3)
    while active.size:
        fit = np.linalg.solve(gram[np.ix_(active, active)], moment[active])
        if fit.min() >= 0:
            weights[active] = fit
            break
        active = active[fit >= 0]
    return weights
