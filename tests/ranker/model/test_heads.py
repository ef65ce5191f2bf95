"""Position is modelled in training and neutral in serving; calibration follows graded predictions."""

import math

import pytest
import torch

from kernels.linear_compress import bind
from ranker.model.heads import (
    CLICK,
    PositionBias,
    calibrate,
    calibration_identity,
    calibration_step,
    trust_start,
    trust_step,
    trusted,
)
from ranker.model.tier import Logits, Tier
from tests.ranker.model.cases import LIGHT, MODEL, PlainEmbedder, make_batch


def test_position_moves_training_clicks_only_by_its_bias() -> None:
    tier, embedder, batch = Tier(MODEL, LIGHT, compress=bind("decomposed")), PlainEmbedder(), make_batch([3], [9])
    with torch.no_grad():
        tier.position.bias_P.copy_(torch.arange(32.0))
    first = tier(batch, embedder, torch.tensor([0, 0, 0]))
    later = tier(batch, embedder, torch.tensor([0, 5, 900]))
    torch.testing.assert_close(later.click_N - first.click_N, torch.tensor([0.0, 5.0, 31.0]))
    assert torch.equal(later.conversion_N, first.conversion_N)


def test_serving_adds_the_bias_of_the_average_impression() -> None:
    position = PositionBias(4)
    with torch.no_grad():
        position.bias_P.copy_(torch.tensor([1.0, 0.0, -1.0, -4.0]))
    assert position.mean().item() == pytest.approx(-1.0)  # no impressions yet: all positions alike
    for _ in range(200):
        position.observe(torch.tensor([0, 0, 1, 2]), rate=0.05)
    assert position.mean().item() == pytest.approx(0.5 * 1 + 0.25 * 0 - 0.25 * 1)
    position.observe(torch.tensor([], dtype=torch.int64), rate=0.05)
    assert position.share_P.sum().item() == pytest.approx(1.0)


def test_calibration_mends_a_tilted_model() -> None:
    generator = torch.Generator().manual_seed(0)
    calibration = calibration_identity()
    for _ in range(2_000):
        truth = torch.randn(16, 2, generator=generator) - 1
        labels = (torch.rand(16, 2, generator=generator) < torch.sigmoid(truth)).float()
        labels[:4, 1] = torch.nan
        calibration = calibration_step(calibration, 2 * truth + torch.tensor([1.0, -1.0]), labels)
    # logit = 2 · truth ± 1, so truth = logit / 2 ∓ 1/2.
    torch.testing.assert_close(calibration, torch.tensor([[0.5, -0.5], [0.5, 0.5]]), rtol=0, atol=0.12)


def test_calibration_step_by_hand() -> None:
    after = calibration_step(
        calibration_identity(), torch.tensor([[0.0, 5.0]]), torch.tensor([[1.0, torch.nan]]), rate=0.1
    )
    torch.testing.assert_close(after, torch.tensor([[1.0, 0.05], [1.0, 0.0]]))


def test_calibration_without_labels_stays() -> None:
    before = torch.tensor([[2.0, 0.3], [0.5, -0.2]])
    assert torch.equal(calibration_step(before, torch.randn(3, 2), torch.full((3, 2), torch.nan)), before)
    assert torch.equal(calibration_step(before, torch.zeros(0, 2), torch.zeros(0, 2)), before)


def test_calibration_keeps_the_order_whatever_it_is_fed() -> None:
    calibration = calibration_identity()
    for _ in range(200):
        calibration = calibration_step(calibration, torch.tensor([[50.0, 50.0]]), torch.zeros(1, 2), rate=1.0)
    assert (calibration[:, 0] == 0.25).all()
    assert calibrate(calibration, torch.tensor([[1.0, 1.0], [2.0, 2.0]])).diff(dim=0).gt(0).all()


def learned_trust(logit_N: torch.Tensor, label_N: torch.Tensor, base: float) -> float:
    trust = trust_start()
    for logits, labels in zip(logit_N.view(-1, 16), label_N.view(-1, 16), strict=True):
        trust = trust_step(trust, logits, labels, torch.ones(16), base)
    return float(trust[0])


def test_trust_follows_what_predictions_are_worth() -> None:
    """It falls where logits are noise, and rises where they are the truth's, by some dozen clicks."""
    drawn = torch.Generator().manual_seed(3)
    base, apart_N = -3.0, torch.randn(4_000, generator=drawn)
    noise = (torch.rand(4_000, generator=drawn) < 0.047).float()
    true = (torch.rand(4_000, generator=drawn) < torch.sigmoid(base + apart_N)).float()
    assert learned_trust(base + apart_N, noise, base) < 0.15
    assert learned_trust(base + apart_N, true, base) > 0.8


def test_a_step_of_trust_by_hand() -> None:
    """Prior slope 0.2 worth 10. A click at a logit 2 above a base of 0: p = sigmoid(0.4), said 2 (1 - p)."""
    p = 1 / (1 + math.exp(-0.4))
    information = 10 + p * (1 - p) * 4
    after = trust_step(trust_start(), torch.tensor([2.0, 9.0]), torch.tensor([1.0, math.nan]), torch.ones(2), 0.0)
    assert after.tolist() == pytest.approx([0.2 + 2 * (1 - p) / information, information])


def test_trust_keeps_the_order_and_never_exaggerates() -> None:
    trust, wrong = trust_start(), torch.tensor([5.0, -5.0])
    for label_N in (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])):
        for _ in range(2_000):
            trust = trust_step(trust, wrong, label_N, torch.ones(2), 0.0)
            assert 0.05 <= trust[0] <= 1.0
    assert trust[0] > 0.9


@pytest.mark.parametrize("logit", [3e19, -3e19, 1e38])
def test_trust_stays_a_number_whatever_it_is_fed(logit: float) -> None:
    after = trust_step(trust_start(), torch.tensor([logit, 1.0]), torch.tensor([1.0, 0.0]), torch.ones(2), -3.0)
    assert after.isfinite().all()


def test_what_is_not_trusted_is_predicted_towards_the_mean() -> None:
    calibration_2 = trusted(torch.tensor([0.9, 0.3]), torch.tensor([0.25, 10.0]), base=-4.0)
    served_N1 = calibrate(calibration_2[None], torch.tensor([[-6.0], [2.0]]))
    assert served_N1[:, 0].tolist() == pytest.approx([-4 + 0.25 * (0.9 * x + 0.3 + 4) for x in (-6.0, 2.0)])


@pytest.mark.parametrize(("means", "trusts"), [((-2.0, -1.0), True), (None, False)])
def test_a_tier_serves_clicks_as_far_as_they_are_trusted(means: tuple[float, float] | None, trusts: bool) -> None:
    tier = Tier(MODEL, LIGHT, compress=bind("decomposed"))
    logits = Logits(torch.tensor([3.0, -3.0]), torch.zeros(2))
    labels_NH = torch.tensor([[0.0, math.nan], [1.0, math.nan]])
    tier.observe(logits, torch.tensor([0, 1]), labels_NH, torch.ones(2, 2), means=means)
    assert (tier.calibration[CLICK].tolist() != tier.platt[CLICK].tolist()) is trusts
    assert tier.calibration[1 - CLICK].tolist() == tier.platt[1 - CLICK].tolist()
    if means is not None:
        assert (
            tier.trust.tolist()
            == trust_step(trust_start(), logits.click_N, labels_NH[:, 0], torch.ones(2), means[0]).tolist()
        )
        assert tier.calibration[CLICK].tolist() == trusted(tier.platt[CLICK], tier.trust, means[1]).tolist()


def test_observe_is_what_serving_applies_and_training_does_not() -> None:
    tier, embedder, batch = Tier(MODEL, LIGHT, compress=bind("decomposed")), PlainEmbedder(), make_batch([3], [9])
    position_N = torch.tensor([0, 1, 2])
    trained, served = tier(batch, embedder, position_N), tier(batch, embedder, None)
    address = tier.calibration.data_ptr()
    labels_NH = torch.tensor([[1.0, 1.0], [torch.nan, torch.nan], [1.0, 1.0]])
    weights_NH = torch.ones(3, 2)
    tier.observe(trained, position_N, labels_NH, weights_NH, position_rate=0.5, calibration_rate=0.05)
    again, after = tier(batch, embedder, position_N), tier(batch, embedder, None)
    assert torch.equal(again.click_N, trained.click_N)
    assert (after.click_N > served.click_N).all()
    assert (after.conversion_N > served.conversion_N).all()
    assert tier.calibration.data_ptr() == address
    assert tier.position.share_P[0] == tier.position.share_P[2] > tier.position.share_P[1]  # position 1 had no label


def test_observe_takes_logits_that_carry_gradients() -> None:
    tier = Tier(MODEL, LIGHT, compress=bind("decomposed"))
    logits = Logits(torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True))
    tier.observe(logits, torch.tensor([0]), torch.ones(1, 2), torch.ones(1, 2))
    assert not tier.calibration.requires_grad
