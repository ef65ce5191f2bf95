"""How far pruning goes. Knows nothing of torch: a command line that offers it loads none."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PruningOptions:
    max_loss: float = 2e-4
    """Relative loss of normalized entropy: pruning stops before it loses more."""
    target: float = 1.0
    """Share of the linear operations: pruning stops when so many are gone."""
    step: float = 0.05
    """Share of the linear operations that a round removes; halved each time a round loses too much."""
    smallest_step: float = 0.005
    """Least step: rather than halve it further, pruning stops."""
    candidates: int = 100
    """Candidates of the request whose operations are counted, its log as long as the tier reads."""

    def __post_init__(self) -> None:
        if not (0 < self.target <= 1 and 0 < self.step <= 1 and 0 <= self.smallest_step <= 1 and self.max_loss >= 0):
            raise ValueError(f"target and step must be in (0, 1], smallest_step in [0, 1], max_loss >= 0, got {self}")
