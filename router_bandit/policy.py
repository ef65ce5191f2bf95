"""The choice of a plan: value minus price, softened by exploration. Knows nothing of how values were learned."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, kw_only=True, slots=True)
class Exploration:
    gamma: float = 20.0
    """How sharply a plan's probability falls with its gap to the best, per unit of earnings. 0 is uniform."""
    floor: float = 0.05
    """Share of choices that are uniform: each of K plans has at least floor / K. Above 0, or off-policy estimates
    have nothing to divide by."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(f"gamma must be finite and >= 0, got {self.gamma}")
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor must be in (0, 1], got {self.floor}")


@dataclass(frozen=True, slots=True)
class Choice:
    plan: str
    probabilities: dict[str, float]
    """Probability of every plan, in the state this choice was made in; they sum to 1. Plans that were not allowed have
    0."""
    forced: bool
    """One plan alone was allowed: the choice says nothing about the policy."""

    @property
    def probability(self) -> float:
        return self.probabilities[self.plan]


def inverse_gap_weighting(scores: Mapping[str, float], gamma: float) -> dict[str, float]:
    """Probabilities that fall with the gap to the best score; the first of equal best ones counts as the best.

    SquareCB (Foster & Rakhlin 2020, "Beyond UCB", algorithm 1): of K plans, one that is not the best gets
    1 / (K + gamma * (best - score)), and the best gets the rest, which is at least 1 / K.
    """
    best = max(scores, key=scores.__getitem__)
    others = {
        plan: 1.0 / (len(scores) + gamma * (scores[best] - score)) for plan, score in scores.items() if plan != best
    }
    return {plan: others.get(plan, 1.0 - math.fsum(others.values())) for plan in scores}


def choose(
    values: Mapping[str, float],
    costs: Mapping[str, float],
    price: float,
    *,
    exploration: Exploration,
    draw: float,
    allowed: Collection[str] | None = None,
) -> Choice:
    """Choose a plan by value - price * cost.

    Inverse-gap weighting over the allowed plans, then a mixture with the uniform choice: each of the K allowed plans
    has at least floor / K.

    Args:
        values: predicted earnings of every plan.
        costs: predicted milliseconds of every plan, the same names.
        price: earnings that one millisecond must bring, >= 0.
        draw: uniform in [0, 1); see `uniform_draw`.
        allowed: the plans that can still answer in time; None for all.

    Raises ValueError if names differ, a number is not finite, or nothing is allowed.
    """
    plans = _checked_plans(values, costs, price, allowed)
    if not 0 <= draw < 1:
        raise ValueError(f"draw must be in [0, 1), got {draw}; use uniform_draw")
    weights = inverse_gap_weighting({plan: values[plan] - price * costs[plan] for plan in plans}, exploration.gamma)
    uniform = exploration.floor / len(plans)
    probabilities = dict.fromkeys(values, 0.0)
    for plan in plans:
        probabilities[plan] = (1 - exploration.floor) * weights[plan] + uniform
    forced = len(plans) == 1 < len(values)
    return Choice(_sample(plans, probabilities, draw), probabilities, forced)


def uniform_draw(response_id: str, seed: int) -> float:
    """A uniform number in [0, 1) that follows from the response and the seed alone, so a choice can be repeated."""
    digest = blake2b(response_id.encode(), digest_size=8, key=seed.to_bytes(8, "little", signed=True)).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def _sample(plans: list[str], probabilities: Mapping[str, float], draw: float) -> str:
    """The plan whose part of the unit interval holds the draw, in the plans' order."""
    reached = 0.0
    for plan in plans:
        reached += probabilities[plan]
        if draw < reached:
            return plan
    return plans[-1]  # the sum ended below the draw by rounding; every allowed plan has a probability above 0


def _checked_plans(
    values: Mapping[str, float], costs: Mapping[str, float], price: float, allowed: Collection[str] | None
) -> list[str]:
    if values.keys() != costs.keys() or not values:
        raise ValueError(f"values and costs must name the same plans, got {sorted(values)} and {sorted(costs)}")
    for what, numbers in (("value", values), ("cost", costs)):
        for plan, number in numbers.items():
            if not math.isfinite(number):
                raise ValueError(f"the {what} of plan {plan!r} must be finite, got {number}")
    if not (math.isfinite(price) and price >= 0):
        raise ValueError(f"price must be finite and >= 0, got {price}")
    if allowed is None:
        return list(values)
    if not allowed or not set(allowed) <= values.keys():
        raise ValueError(f"allowed must be some of {sorted(values)}, got {sorted(allowed)}")
    return [plan for plan in values if plan in allowed]
