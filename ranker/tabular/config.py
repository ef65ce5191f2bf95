"""How a table is learned. Knows nothing of torch: a command line that offers it loads none."""

from dataclasses import dataclass
from math import inf
from typing import Final

from ranker.config import TierConfig
from ranker.tabular.tiers import DEFAULT_TIER, TIERS

AVERAGED_EVERY = 8
"""Steps; often enough for a horizon of hundreds, and cheap beside them where a table has a million rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """How a table is learned. The defaults are what docs/tabular.md compares."""

    tier: TierConfig = TIERS[DEFAULT_TIER]
    embedding_width: int = 16
    batch: int = 1024
    """Rows a step, at most: a small table gets EPOCH_STEPS of them an epoch."""
    dense_rate: float = 1e-3
    """Learning rate of Adam, for the tier's own weights."""
    linear_rate: float = 1e-2
    """Learning rate of Adam, for the linear path from the columns to the logit: what needs no interaction is to be
    learned first."""
    row_rate: float = 5e-3
    """Learning rate of lazy Adam, for embedding rows."""
    weight_decay: float = 0.0
    """Weight decay of the tier's own weights, decoupled (AdamW)."""
    embedding_l2: float = 1e-2
    """Factor: this times the row is added to its gradient of the mean log loss, for the rows that a minibatch reads."""
    averaged_steps: int = 400
    """Horizon of the moving average over steps that validates and is kept, instead of the weights that learn."""
    epochs_max: int = 100
    patience: int = 2
    """Epochs without improvement after which the rates fall, and training goes on from the best epoch."""
    rate_drops: int = 2
    """How often the rates fall by rate_factor before training ends."""
    rate_factor: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.embedding_width, self.batch, self.epochs_max, self.patience) < 1 or self.rate_drops < 0:
            raise ValueError(f"embedding_width, batch, epochs_max and patience must be >= 1, got {self}")
        if self.averaged_steps < AVERAGED_EVERY:
            raise ValueError(f"averaged_steps must be >= {AVERAGED_EVERY}, got {self.averaged_steps}")
        if min(self.dense_rate, self.linear_rate, self.row_rate) <= 0 or min(self.weight_decay, self.embedding_l2) < 0:
            raise ValueError(f"rates must be > 0, weight_decay and embedding_l2 >= 0, got {self}")
        if self.tier.log_length:
            raise ValueError(f"a table has no log: the tier needs log_length=0, got {self.tier.log_length}")


SPACE: Final[dict[str, tuple[float, ...]]] = {
    "embedding_width": (16, 32, 48, 64),
    "batch": (256, 512, 1024, 2048, 4096),
    "embedding_l2": (3e-3, 1e-2, 3e-2),
    "dropout": (0.0, 0.03, 0.1),
}
"""Settings that a search tries, and their values: names of fields of FitConfig or, for dropout, of its tier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """What a search of settings may change, and how long it may take. The default changes nothing: one model."""

    seconds: float = inf
    names: tuple[str, ...] = ()
    """Names in SPACE; other settings stay as they are."""

    def __post_init__(self) -> None:
        if not self.seconds > 0 or not set(self.names) <= set(SPACE):
            raise ValueError(f"a search needs seconds > 0 and names among {list(SPACE)}, got {self}")
