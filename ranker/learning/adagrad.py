"""Optimizers of table rows."""

import torch
from torch import Tensor

EPSILON = 1e-8


@torch.no_grad()
def rowwise_adagrad(weights_RD: Tensor, sums_R: Tensor, rows_K: Tensor, gradients_KD: Tensor, *, rate: float) -> None:
    """One step on distinct rows, in place: Adagrad (Duchi et al., 2011) with one sum a row instead of one a cell.

    sum += mean(g²); w -= rate · g / (√sum + ε): "exact row-wise Adagrad" of FBGEMM's split embeddings.

    Args:
        weights_RD: float32 [R, D].
        sums_R: float32 [R], zero for a row that has not learned.
        rows_K: int64 [K], distinct.
        gradients_KD: float32 [K, D].
        rate: the learning rate.
    """
    sums_K = sums_R[rows_K] + gradients_KD.square().mean(dim=1)
    sums_R[rows_K] = sums_K
    steps_KD = gradients_KD * (rate / (sums_K.sqrt() + EPSILON)).unsqueeze(1)
    weights_RD[rows_K] = weights_RD[rows_K] - steps_KD


@torch.no_grad()
def adagrad(weights_RD: Tensor, sums_RD: Tensor, rows_K: Tensor, gradients_KD: Tensor, *, rate: float) -> None:
    """Takes one step on distinct rows, in place: Adagrad (Duchi et al., 2011), a sum for each cell.

    sum += g²; w -= rate · g / √sum. Shapes as above; sums begin at 1, so that a weight's first step is no larger than
    its gradient.
    """
    sums_KD = sums_RD[rows_K] + gradients_KD.square()
    sums_RD[rows_K] = sums_KD
    weights_RD[rows_K] -= rate * gradients_KD / sums_KD.sqrt()
