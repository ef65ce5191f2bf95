"""Importance weights against a simulation with known delays: what is learned is what the true labels would teach."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from ranker.delayed.policies import NO_EMISSION, POLICIES, Emission, PolicyName, final_emissions
from ranker.delayed.weights import is_positive, late_loss, targets

CLICKS = 100_000
RATE_X = torch.tensor([0.02, 0.2, 0.2, 0.5, 0.9])
LATE_X = torch.tensor([0.8, 0.1, 0.9, 0.6, 0.3])
"""Share of what converts that takes longer than the elapsed time: known, and not the same for all."""


def emissions(policy: PolicyName, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Every example that the stream makes of CLICKS clicks: which x it is of, and its Emission."""
    rng = np.random.default_rng(seed)
    x_C = rng.integers(0, len(RATE_X), CLICKS)
    converts_C = rng.random(CLICKS) < RATE_X.numpy()[x_C]
    late_C = rng.random(CLICKS) < LATE_X.numpy()[x_C]
    early: npt.NDArray[np.bool_] = {
        "none": np.full(CLICKS, False),
        "click": np.full(CLICKS, True),
        "elapsed": ~converts_C | late_C,
    }[POLICIES[policy].provisional]
    final_C = np.where(converts_C, np.where(early, Emission.CORRECTED, Emission.CONVERTED), Emission.CLOSED)
    x_N = np.concatenate([x_C[early], x_C])
    emission_N = np.concatenate([np.full(int(early.sum()), Emission.PROVISIONAL), final_C])
    return torch.from_numpy(x_N), torch.from_numpy(emission_N.astype(np.int64))


def weighed_rates(policy: PolicyName, p_X: Tensor) -> tuple[Tensor, Tensor]:
    """Returns, for each x, the weighted share of positives, and the weight of all its examples per click."""
    x_N, emission_N = emissions(policy)
    found = targets(policy, emission_N, p_X[x_N], LATE_X[x_N])
    positive_X = torch.zeros(len(RATE_X)).index_add(0, x_N, found.weight_N * found.label_N)
    all_X = torch.zeros(len(RATE_X)).index_add(0, x_N, found.weight_N)
    return positive_X / all_X, all_X / (CLICKS / len(RATE_X))


@pytest.mark.parametrize(
    ("policy", "scale_X"),
    [
        ("wait", torch.ones(5)),
        ("fake_negative", 1 + RATE_X),
        ("es_dfm", 1 + RATE_X * LATE_X),
        ("defer", torch.full((5,), 2.0)),
    ],
)
def test_the_weighted_loss_is_that_of_the_true_labels_times_what_the_paper_says(
    policy: PolicyName, scale_X: Tensor
) -> None:
    rate_X, weight_X = weighed_rates(policy, RATE_X)
    torch.testing.assert_close(rate_X, RATE_X, atol=0.01, rtol=0)
    torch.testing.assert_close(weight_X, scale_X, atol=0, rtol=0.02)


def test_naive_examples_are_biased_as_known() -> None:
    rate_X, weight_X = weighed_rates("naive", RATE_X)
    torch.testing.assert_close(rate_X, RATE_X / (1 + RATE_X), atol=0.01, rtol=0)
    torch.testing.assert_close(weight_X, 1 + RATE_X, atol=0, rtol=0.02)


def test_without_importance_weights_the_same_examples_teach_something_else() -> None:
    """So the test above cannot pass by weights that do nothing."""
    x_N, emission_N = emissions("es_dfm")
    taken_N = emission_N != Emission.CLOSED
    positive_X = torch.zeros(5).index_add(0, x_N[taken_N], is_positive(emission_N[taken_N]).float())
    biased_X = RATE_X / (1 + RATE_X * LATE_X)
    assert ((biased_X - RATE_X).abs() > 0.02)[2:].all()
    torch.testing.assert_close(positive_X / torch.bincount(x_N[taken_N]), biased_X, atol=0.01, rtol=0)


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_of_the_models_own_wrong_predictions_lead_to_the_true_rates(policy: PolicyName) -> None:
    """Each round is the optimum of the loss under the weights of the round before."""
    rate_X = torch.full((5,), 0.3)
    for _ in range(60):
        rate_X, _ = weighed_rates(policy, rate_X)
    expected_X = RATE_X / (1 + RATE_X) if policy == "naive" else RATE_X
    torch.testing.assert_close(rate_X, expected_X, atol=0.015, rtol=0)


@pytest.mark.parametrize("policy", ["es_dfm", "defer"])
def test_the_late_loss_is_least_at_the_share_of_late_conversions(policy: PolicyName) -> None:
    x_N, emission_N = emissions(policy)
    logit_X = torch.logit(LATE_X).requires_grad_()
    loss = late_loss(logit_X[x_N], emission_N)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logit_X.grad is not None
    positives_X = torch.bincount(x_N[is_positive(emission_N)])
    assert ((logit_X.grad / positives_X).abs() < 0.03).all()


def test_by_hand() -> None:
    every_N = torch.tensor([*Emission, NO_EMISSION])
    p_N, late_N = torch.full((5,), 0.2), torch.full((5,), 0.5)
    by_hand: dict[PolicyName, list[float]] = {
        "wait": [0, 1, 1, 1],
        "naive": [1, 1, 1, 0],
        "fake_negative": [1.2 * 0.8, 1.2, 1.2, 0],
        "es_dfm": [1.1 * 0.8 / 0.9, 1.1, 1.1, 0],
        "defer": [0.8 / 0.85, 2 / 0.75, 1 / 0.75, 0.8 / 0.85],
    }
    for policy, weights in by_hand.items():
        found = targets(policy, every_N, p_N, late_N)
        assert found.label_N[:4].tolist() == [0, 1, 1, 0]
        assert found.label_N[4].isnan()
        torch.testing.assert_close(found.weight_N, torch.tensor([*weights, 0], dtype=torch.float32))


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_are_constants_and_stay_bounded_at_the_ends(policy: PolicyName) -> None:
    p_N = torch.tensor([0.0, 1.0, 0.5]).repeat_interleave(3).requires_grad_()
    late_N = torch.tensor([1e-7, 1.0, 0.5]).repeat(3).requires_grad_()
    for emission in Emission:
        found = targets(policy, torch.full((9,), emission), p_N, late_N)
        assert not found.weight_N.requires_grad
        assert ((found.weight_N >= 0) & (found.weight_N <= 4)).all()


def test_labels_without_a_history_are_final() -> None:
    labels = np.array([1, 0, np.nan, 0.3], np.float32)
    converted, closed = Emission.CONVERTED, Emission.CLOSED
    assert final_emissions(labels).tolist() == [converted, closed, NO_EMISSION, converted]
