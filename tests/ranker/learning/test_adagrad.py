"""Adagrad of the crosses' weights: torch's own is the reference."""

import torch

from ranker.learning.adagrad import adagrad


def test_steps_are_those_of_torch_and_other_rows_stay() -> None:
    torch.manual_seed(0)
    weights, sums = torch.randn(6, 2), torch.ones(6, 2)
    theirs = torch.nn.Parameter(weights.clone())
    reference = torch.optim.Adagrad([theirs], lr=0.05, initial_accumulator_value=1.0, eps=0.0)
    before = weights.clone()
    for rows in ([0, 3], [3, 5], [1]):
        gradients = torch.randn(len(rows), 2) * 3
        theirs.grad = torch.zeros(6, 2)
        theirs.grad[rows] = gradients
        reference.step()
        adagrad(weights, sums, torch.tensor(rows), gradients, rate=0.05)
        torch.testing.assert_close(weights, theirs.detach())
    assert torch.equal(weights[[2, 4]], before[[2, 4]])
