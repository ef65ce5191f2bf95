"""Which encoding each tensor may travel in: measured on labels that were not learned from, never assumed.

Each tensor is encoded alone, and the loss of the tiers that read it is measured; encodings are taken by bytes saved per
loss within a budget, and judged again together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ranker.arrays import F64
from ranker.config import Encoding
from ranker.learning.model_copy import ModelCopy
from ranker.tuning.held_out import Change, HeldOut, compare
from ranker.updates.encoding import SMALL, encode
from ranker.updates.image import dense_tensors

SHORT: tuple[Encoding, ...] = ("int8", "bfloat16")


@dataclass(frozen=True, slots=True)
class TensorResult:
    name: str
    """A table, or tier and name ("light/heads.user.weight")."""
    encoding: Encoding
    saved: int
    """Bytes, of the whole tensor against float32."""
    change: Change
    """Change of the loss of the tier that loses most, with this tensor alone in this encoding."""


@dataclass(frozen=True, slots=True)
class EncodingResult:
    tensors: list[TensorResult]
    chosen: dict[str, Encoding]
    """Encoding by tensor; what is not here stays float32."""
    changes: dict[str, Change]
    """Change of each tier's loss, with all that is chosen together."""
    full_bytes: int
    """Bytes of all tensors in float32."""
    chosen_bytes: int
    dropped: list[str]
    """Tensors that were chosen one by one and taken back, because all together lost too much."""


def measure_encodings(model: ModelCopy, held_out: Mapping[str, HeldOut], *, max_loss: float) -> EncodingResult:
    """held_out: by tier, over the model's tables. max_loss: of each tier's entropy, relative. Leaves the model as it
    was."""
    before = {tier: held.losses(model.tiers[tier]) for tier, held in held_out.items()}
    tensors = _tensors(model)
    results = [
        TensorResult(
            name,
            encoding,
            tensor.nbytes - encode(tensor, encoding).nbytes,
            _alone(model, name, tensor, encoding, held_out, before),
        )
        for name, tensor in tensors.items()
        for encoding in SHORT
    ]
    chosen, dropped = choose(results, max_loss), list[str]()
    while True:
        changes = _together(model, tensors, chosen, held_out, before)
        if not chosen or max(change.loss for change in changes.values()) <= max_loss:
            break
        dropped.append(chosen.popitem()[0])
    full = sum(tensor.nbytes for tensor in tensors.values())
    saved = {(result.name, result.encoding): result.saved for result in results}
    return EncodingResult(results, chosen, changes, full, full - sum(saved[one] for one in chosen.items()), dropped)


def choose(results: Sequence[TensorResult], max_loss: float) -> dict[str, Encoding]:
    """Chooses by bytes saved per loss, best first, while the losses add up to the budget.

    A loss below a thousandth of the budget counts as that: it is noise, and no reason to prefer a tensor.
    """

    def counted(result: TensorResult) -> float:
        return max(result.change.loss, max_loss / 1000, 1e-12)

    chosen: dict[str, Encoding] = {}
    spent = 0.0
    for result in sorted(results, key=lambda result: result.saved / counted(result), reverse=True):
        if result.saved > 0 and result.name not in chosen and spent + counted(result) <= max_loss:
            chosen[result.name] = result.encoding
            spent += counted(result)
    return chosen


def _tensors(model: ModelCopy) -> dict[str, Tensor]:
    """All that may be encoded: tables, and dense tensors that are not small; sharing memory with the model."""
    dense = {name: tensor for name, tensor in dense_tensors(model.tiers).items() if tensor.numel() > SMALL}
    return dict(model.tables.weights) | dense


def _alone(
    model: ModelCopy,
    name: str,
    tensor: Tensor,
    encoding: Encoding,
    held_out: Mapping[str, HeldOut],
    before: Mapping[str, F64],
) -> Change:
    readers = held_out if name in model.tables.weights else {tier: held_out[tier] for tier in [name.partition("/")[0]]}
    changes = _together(model, {name: tensor}, {name: encoding}, readers, before)
    return max(changes.values(), key=lambda change: change.loss)


@torch.no_grad()
def _together(
    model: ModelCopy,
    tensors: Mapping[str, Tensor],
    chosen: Mapping[str, Encoding],
    held_out: Mapping[str, HeldOut],
    before: Mapping[str, F64],
) -> dict[str, Change]:
    kept = {name: tensors[name].clone() for name in chosen}
    try:
        for name, encoding in chosen.items():
            tensors[name].copy_(encode(tensors[name], encoding).decode())
        return {tier: compare(before[tier], held.losses(model.tiers[tier])) for tier, held in held_out.items()}
    finally:
        for name, tensor in kept.items():
            tensors[name].copy_(tensor)
