"""Adam over the dense weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ranker.config import LearnerConfig
from ranker.model.tier import is_plain


def new_adam(parameters: Mapping[str, Tensor], settings: LearnerConfig) -> torch.optim.Adam:
    """Over dense parameters, named by tier and name within it."""
    plain = {name: is_plain(name.partition("/")[2]) for name in parameters}
    groups = [
        {"params": [p for name, p in parameters.items() if plain[name] is wanted], "lr": rate, "full_rate": rate}
        for wanted, rate in ((False, settings.dense_rate), (True, settings.plain_rate))
    ]
    return torch.optim.Adam(groups, fused=True)
