"""Initial weights, at the scale that keeps a unit variance through a layer."""

import math

import torch
from torch import Tensor, nn


def normal(*shape: int, fan_in: int, gain: float = 1.0) -> nn.Parameter:
    """A weight of std gain / sqrt(fan_in), fan_in being the number of terms that its product sums.

    Weights over tokens ([K, V] times [V, D]) sum over V, not over the D of the activations.
    """
    weight: Tensor = torch.randn(*shape) * (gain / max(fan_in, 1) ** 0.5)
    return nn.Parameter(weight)


BESIDE_EMBEDDINGS = 0.1
"""Gain of what stands beside embeddings as a token. They begin at about a tenth of unit variance: at full scale, what
was read and what the blocks made of noise would drown them, and interactions would be found late."""

AFTER_RELU = 2.0**0.5
"""A ReLU halves the second moment (He et al., 2015)."""


def log_odds(p: float) -> float:
    return math.log(p / (1 - p))


def linear(size_in: int, size_out: int, *, gain: float = 1.0) -> nn.Linear:
    """A linear layer without bias."""
    layer = nn.Linear(size_in, size_out, bias=False, device="meta")
    layer.weight = normal(size_out, size_in, fan_in=size_in, gain=gain)
    return layer


def norm(width: int) -> nn.LayerNorm:
    """LayerNorm without bias: RMSNorm ranks as well, and is seven operators on a CPU where this is one.

    Its eps bounds the gradient's gain at 1 / sqrt(eps), which a row that is still zero meets.
    """
    return nn.LayerNorm(width, eps=1e-5, bias=False)
