import random
from collections.abc import Callable

import numpy as np
import pytest

from router_bandit.estimators import Estimate, ips, snips
from router_bandit.policy import Exploration, choose

ESTIMATORS = [ips, snips]


def test_two_rows_by_hand() -> None:
    # Weights 2 and 0.5, rewards 3 and 1.
    p_log, p_new, reward = [0.25, 0.5], [0.5, 0.25], [3.0, 1.0]
    assert ips(p_log, p_new, reward).mean == pytest.approx((6.0 + 0.5) / 2)
    assert snips(p_log, p_new, reward).mean == pytest.approx(6.5 / 2.5)
    assert ips(p_log, p_new, reward).effective_rows == pytest.approx(2.5**2 / 4.25)


@pytest.mark.parametrize("estimate", ESTIMATORS, ids=lambda e: e.__name__)
class TestEveryEstimator:
    def test_the_logging_policy_itself_is_the_plain_mean(self, estimate: Callable[..., Estimate]) -> None:
        reward = np.array([1.0, 0.0, 4.0, 3.0])
        p = [0.1, 0.9, 0.4, 0.2]
        result = estimate(p, p, reward)
        assert result.mean == pytest.approx(2.0)
        half = 1.959964 * reward.std(ddof=1) / 2
        assert (result.low, result.high) == pytest.approx((2.0 - half, 2.0 + half))
        assert result.effective_rows == pytest.approx(4)

    def test_intervals_cover_the_truth_about_as_often_as_they_say(self, estimate: Callable[..., Estimate]) -> None:
        values, costs = {"light": 0.2, "heavy": 0.3}, {"light": 1.0, "heavy": 2.0}
        rng, covered = random.Random(0), 0
        for _ in range(200):
            p_log, p_new, reward = [], [], []
            for _ in range(400):
                choice = choose(values, costs, 0.02, exploration=Exploration(gamma=30, floor=0.2), draw=rng.random())
                p_log.append(choice.probability)
                p_new.append(0.8 if choice.plan == "heavy" else 0.2)
                reward.append(float(rng.random() < values[choice.plan]))
            result = estimate(p_log, p_new, reward)
            covered += result.low <= 0.8 * 0.3 + 0.2 * 0.2 <= result.high
        assert 180 <= covered <= 199  # 95 % of 200 is 190; 180 and 199 are about 3 sigma off

    def test_a_probability_that_cannot_be_divided_by_is_refused_by_row(self, estimate: Callable[..., Estimate]) -> None:
        with pytest.raises(ValueError, match=r"p_log must be in \(0, 1\], got 0.0 in row 2"):
            estimate([0.5, 0.5, 0.0], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0])
        with pytest.raises(ValueError, match=r"p_log must be .* in row 1"):
            estimate([0.5, float("nan")], [0.5, 0.5], [1.0, 1.0])
        with pytest.raises(ValueError, match=r"p_new must be .* row 0"):
            estimate([0.5, 0.5], [1.5, 0.5], [1.0, 1.0])
        with pytest.raises(ValueError, match="reward must be finite, got inf in row 1"):
            estimate([0.5, 0.5], [0.5, 0.5], [1.0, float("inf")])
        with pytest.raises(ValueError, match="same length"):
            estimate([0.5], [0.5, 0.5], [1.0, 1.0])


def test_snips_of_a_policy_that_was_never_seen_is_refused() -> None:
    with pytest.raises(ValueError, match="all weights are 0"):
        snips([0.5, 0.5], [0.0, 0.0], [1.0, 1.0])
