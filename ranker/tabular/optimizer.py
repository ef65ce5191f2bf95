"""Adam for embedding rows: of a table of a million, a step touches only those that its minibatch reads."""

# R rows, D their width, K distinct rows of a step.

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class RowAdam:
    """Lazy Adam (Kingma & Ba, 2015): moments and weights of rows without a gradient stay as they are.

    `l2` · w is added to the gradient of the touched rows, so a row is regularized as often as it learns.
    """

    def __init__(self, weight: torch.nn.Parameter, *, rate: float, l2: float) -> None:
        """weight: float32 [R, D], whose gradients are sparse."""
        self.rate = rate
        self._l2 = l2
        self._weight = weight
        self._first_RD = torch.zeros_like(weight)
        self._second_RD = torch.zeros_like(weight)
        self._steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """One step by the gradient, which is then dropped."""
        gradient = _taken(self._weight)
        rows_K, gradient_KD = gradient.indices()[0], gradient.values()
        self._steps += 1
        weight_KD = self._weight[rows_K]
        gradient_KD = gradient_KD + self._l2 * weight_KD
        first_KD = self._first_RD[rows_K].lerp_(gradient_KD, 1 - BETA_1)
        second_KD = self._second_RD[rows_K].lerp_(gradient_KD.square(), 1 - BETA_2)
        self._first_RD[rows_K], self._second_RD[rows_K] = first_KD, second_KD
        rate = self.rate / (1 - BETA_1**self._steps)
        spread_KD = (second_KD / (1 - BETA_2**self._steps)).sqrt_().add_(EPSILON)
        self._weight[rows_K] = weight_KD - rate * first_KD / spread_KD


def _taken(weight: torch.nn.Parameter) -> Tensor:
    """The coalesced gradient, removed from the weight."""
    if weight.grad is None:
        raise ValueError("rows need a gradient to step by: call backward first")
    gradient = weight.grad.coalesce()
    weight.grad = None
    return gradient
