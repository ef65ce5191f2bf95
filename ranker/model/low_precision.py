"""Layers in low precision, for serving: the live weight stays where it is, and products are made with a copy of it.

    bf16    x and W in bfloat16, the product back in float32
    int8    each row of x and of W by a scale of its own, max |.| / 127, and the product of integers times both scales

Each row of a batch is computed by itself, so what a candidate scores does not depend on what was sent with it. The
copies are refreshed in place, when the weights have changed.
"""

# n rows, I inputs, O outputs, K compressed tokens, U and V tokens of user and candidate, D token width.

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.linear_compress import Compress
from ranker.model.tier import Tier
from ranker.model.wukong import CandidateLayer, ExactLayer

Kind = Literal["bf16", "int8"]
KINDS: tuple[Kind, ...] = ("bf16", "int8")
_SMALLEST = 1e-20


class LowPrecisionLinear(nn.Module):
    """In the place of an nn.Linear without bias; its parameter keeps its name, and is the same tensor."""

    copy_OI: Tensor
    scale_O: Tensor

    def __init__(self, linear: nn.Linear, kind: Kind) -> None:
        super().__init__()
        self.weight = linear.weight
        self.kind = kind
        weight_OI = linear.weight.detach()
        dtype = torch.bfloat16 if kind == "bf16" else torch.int8
        self.register_buffer("copy_OI", torch.empty_like(weight_OI, dtype=dtype), persistent=False)
        self.register_buffer("scale_O", weight_OI.new_ones(len(weight_OI)), persistent=False)
        self.refresh()

    def refresh(self) -> None:
        """Copy the weight again, to the same addresses."""
        weight_OI = self.weight.detach()
        if self.kind == "bf16":
            self.copy_OI.copy_(weight_OI)
            return
        rounded_OI, scale_O1 = _round_rows(weight_OI)
        self.copy_OI.copy_(rounded_OI)
        self.scale_O.copy_(scale_O1.squeeze(1))

    def forward(self, x_nI: Tensor) -> Tensor:
        """float32 [..., I] → float32 [..., O]."""
        if self.kind == "bf16":
            return F.linear(x_nI.bfloat16(), self.copy_OI).float()
        flat_nI = x_nI.flatten(0, -2)
        rounded_nI, scale_n1 = _round_rows(flat_nI)
        product_nO = torch._int_mm(rounded_nI.to(torch.int8), self.copy_OI.t()).float()
        return product_nO.mul_(scale_n1).mul_(self.scale_O).view(*x_nI.shape[:-1], len(self.copy_OI))


def _round_rows(x_nI: Tensor) -> tuple[Tensor, Tensor]:
    """Integers in [-127, 127], as float32 [n, I], and the scales [n, 1] that they are multiples of."""
    scale_n1 = x_nI.abs().amax(1, keepdim=True).div_(127).clamp_(min=_SMALLEST)
    return (x_nI / scale_n1).round_(), scale_n1


def bf16_compress(compress: Compress) -> Compress:
    """Linear compression with tokens and weights in bfloat16; its weights are too few to be worth a copy."""

    def compressed(
        user_BUD: Tensor, item_NVD: Tensor, request_of_N: Tensor, w_user_KU: Tensor, w_item_KV: Tensor
    ) -> Tensor:
        floats = (t.bfloat16() for t in (user_BUD, item_NVD, w_user_KU, w_item_KV))
        user, item, w_user, w_item = floats
        return compress(user, item, request_of_N, w_user, w_item).float()

    return compressed


def candidates(tier: Tier) -> dict[str, tuple[Kind, ...]]:
    """The layers that may be in low precision, by path, and in which. The heads stay float32: see Heads."""
    found: dict[str, tuple[Kind, ...]] = {}
    for path, module in tier.named_modules():
        if path == "heads" or path.startswith("heads."):
            continue
        if isinstance(module, nn.Linear):
            # torch._int_mm (2.13, CPU) is wrong where it sums a single product.
            found[path] = KINDS if module.in_features > 1 else ("bf16",)
        elif isinstance(module, CandidateLayer | ExactLayer):
            found[f"{path}.compress"] = ("bf16",)
    return found


def layer_at(tier: Tier, path: str) -> Callable[..., Tensor]:
    """The layer of that path among `candidates`: a module, or a compression."""
    parent, _, name = path.rpartition(".")
    layer: Callable[..., Tensor] = getattr(tier.get_submodule(parent), name)
    return layer


def convert(tier: Tier, chosen: Mapping[str, Kind]) -> list[LowPrecisionLinear]:
    """Put these layers of the tier in low precision, in place; returns those to refresh when weights change.

    Raises ValueError for a layer that the tier does not have, or not in this precision.
    """
    possible = candidates(tier)
    if unknown := {path: kind for path, kind in chosen.items() if kind not in possible.get(path, ())}:
        raise ValueError(f"tier {tier.config.name!r} has no such layers to put in low precision: {unknown}")
    made = []
    for path, kind in chosen.items():
        parent, _, name = path.rpartition(".")
        layer = layer_at(tier, path)
        if isinstance(layer, nn.Linear):
            made.append(LowPrecisionLinear(layer, kind))
            setattr(tier.get_submodule(parent), name, made[-1])
        else:
            setattr(tier.get_submodule(parent), name, bf16_compress(layer))
    return made


def refresh_all(layers: Iterable[LowPrecisionLinear]) -> None:
    for layer in layers:
        layer.refresh()
