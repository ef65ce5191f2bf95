"""What a model is made of, and how it is learned."""

from ranker.config.learning import Encoding, GateConfig, LearnerConfig, UpdateConfig
from ranker.config.model import (
    ANY,
    ARCHITECTURE,
    CROSSES,
    HOUR,
    ITEM,
    LOG,
    SURFACE,
    USER,
    Kind,
    ModelConfig,
    Pruned,
    Side,
    Slot,
    TableConfig,
    TierConfig,
)

__all__ = [
    "ANY",
    "ARCHITECTURE",
    "CROSSES",
    "HOUR",
    "ITEM",
    "LOG",
    "SURFACE",
    "USER",
    "Encoding",
    "GateConfig",
    "Kind",
    "LearnerConfig",
    "ModelConfig",
    "Pruned",
    "Side",
    "Slot",
    "TableConfig",
    "TierConfig",
    "UpdateConfig",
]
