"""Cutting a tier's MLPs down to a size: the shapes of a pruned tier. Which units stay is ranker/tuning/pruning.py's."""

import torch
from torch import Tensor, nn

from ranker.config import Pruned
from ranker.model.heads import Heads
from ranker.model.mlp import Mlp


def hidden_units(module: nn.Module) -> int:
    """Counts the hidden units of an Mlp, or of each of the heads."""
    if isinstance(module, Mlp):
        return module.up.out_features
    if isinstance(module, Heads):
        return int(module.out_Hh.shape[1])
    raise ValueError(f"only an Mlp and the heads have hidden units to cut, got a {type(module).__name__}")


def keep(module: nn.Module, units: Tensor) -> None:
    """Keep these hidden units, int64: [K] of an Mlp, [2, K] of the heads."""
    if isinstance(module, Mlp | Heads):
        module.keep(units)
    else:
        raise ValueError(f"only an Mlp and the heads have hidden units to cut, got a {type(module).__name__}")


def cut(tier: nn.Module, name: str, pruned: Pruned) -> None:
    """Give the module its pruned shape. Raises ValueError for a path or a size that the tier, so named, has not."""
    modules = {path: module for path, module in tier.named_modules() if isinstance(module, Mlp | Heads)}
    if pruned.mlp not in modules:
        raise ValueError(f"tier {name!r} has no MLP {pruned.mlp!r} to prune; it has {sorted(modules)}")
    module = modules[pruned.mlp]
    units = hidden_units(module)
    if pruned.hidden > units:
        raise ValueError(f"tier {name!r}: {pruned.mlp!r} has {units} hidden units, cannot keep {pruned.hidden}")
    kept_K = torch.arange(pruned.hidden)
    keep(module, kept_K.expand(2, -1) if isinstance(module, Heads) else kept_K)
