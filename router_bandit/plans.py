"""Plans: which tiers score a request, and what is known of it when one is chosen. Knows nothing of tiers' insides."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

Context = Mapping[str, str | float]
"""What a choice of plan is made from: a string is a category, a number a dense value."""

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Stage:
    """One tier's turn."""

    tier: str
    keep: int | float | None = None
    """How many of the candidates, best first by the stage before, this stage scores: a count, a share in (0, 1) as a
    float, or None for all of them."""

    def __post_init__(self) -> None:
        if not self.tier:
            raise ValueError("a stage's tier must have a name, got ''")
        if isinstance(self.keep, bool) or (self.keep is not None and not self.keep > 0):
            raise ValueError(f"keep of tier {self.tier!r} must be above 0, or None for all, got {self.keep!r}")
        if isinstance(self.keep, float) and not self.keep < 1:
            raise ValueError(
                f"keep of tier {self.tier!r} as a float is a share below 1, got {self.keep}; give a count as an int"
            )

    def count(self, candidates: int) -> int:
        """How many of `candidates` this stage scores: a share is rounded up, so that some candidate is scored."""
        if self.keep is None:
            return candidates
        if isinstance(self.keep, int):
            return min(self.keep, candidates)
        return min(math.ceil(self.keep * candidates), candidates)


@dataclass(frozen=True, slots=True)
class Plan:
    """A tier, or a cascade: the first stage scores all candidates, each later one re-scores the best of them."""

    name: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a plan must have a name, got ''")
        if not self.stages:
            raise ValueError(f"plan {self.name!r} must have at least one stage")
        if self.stages[0].keep is not None:
            raise ValueError(
                f"the first stage of plan {self.name!r} must score all candidates (keep=None), "
                f"got keep={self.stages[0].keep}"
            )

    @classmethod
    def single(cls, tier: str) -> "Plan":
        """One tier scores everything; the plan has the tier's name."""
        return cls(tier, (Stage(tier),))

    @classmethod
    def cascade(cls, first: str, then: str, *, keep: int | float) -> "Plan":
        """`first` scores all, `then` re-scores the best `keep`."""
        return cls(f"{first}+{then}", (Stage(first), Stage(then, keep)))

    @property
    def tier(self) -> str:
        """The tier that has the last word."""
        return self.stages[-1].tier

    def work(self, candidates: int) -> tuple[tuple[str, int], ...]:
        """(tier, candidates scored) of each stage."""
        work = []
        for stage in self.stages:
            candidates = stage.count(candidates)
            work.append((stage.tier, candidates))
        return tuple(work)


def check_plans(plans: tuple[Plan, ...]) -> None:
    """Raises ValueError unless there is at least one plan and all names differ."""
    names = [plan.name for plan in plans]
    if not names:
        raise ValueError("a router needs at least one plan, got none")
    if len(set(names)) != len(names):
        raise ValueError(f"plans must have different names, got {names}")


def request_context(
    *,
    surface: str,
    event_ms: int,
    candidates: int,
    log_length: int,
    load: float,
    device: str = "unknown",
) -> dict[str, str | float]:
    """The context of one request.

    Args:
        surface: where the ads will be shown.
        event_ms: when the request was made, in ms since the epoch; becomes the hour of the day (UTC).
        candidates: how many there are; enters as its power of two.
        log_length: events in the user's log; enters as its power of two.
        load: share of the ranking process's time that is taken, clipped into [0, 1].
        device: the user's device, where known.
    """
    return {
        "surface": surface,
        "device": device,
        "hour": f"{event_ms // HOUR_MS % 24}",
        "candidates": f"{candidates.bit_length()}",
        "log": f"{log_length.bit_length()}",
        "load": min(max(load, 0.0), 1.0),
    }
