"""Metrics against hand-computed cases, scikit-learn, and the truth of simulations."""

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from ranker.arrays import F64
from ranker.grades import entropies, log_losses
from streams.replay.metrics import (
    auc_difference,
    auc_interval,
    delong,
    midranks,
    normalized_entropies,
)


def draw(n: int, seed: int, *, ties: bool = False) -> tuple[F64, F64]:
    rng = np.random.default_rng(seed)
    truth = rng.beta(1, 4, n)
    labels = (rng.random(n) < truth).astype(np.float64)
    return labels, np.round(truth, 1) if ties else truth


class TestAuc:
    def test_by_hand(self) -> None:
        # Of the 2 x 2 pairs (positive, negative): .9>.5, .9>.1, .5=.5 counts half, .5>.1.
        labels, scores = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.9, 0.5, 0.5, 0.1])
        assert auc_interval(labels, scores).value == pytest.approx(3.5 / 4)

    @pytest.mark.parametrize("ties", [False, True])
    def test_equals_scikit_learn(self, ties: bool) -> None:
        labels, scores = draw(500, 0, ties=ties)
        assert auc_interval(labels, scores).value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)

    def test_midranks_by_hand(self) -> None:
        np.testing.assert_array_equal(midranks(np.array([2.0, 1.0, 2.0, 5.0])), [2.5, 1.0, 2.5, 4.0])

    def test_the_interval_holds_the_truth_19_times_in_20(self) -> None:
        # Positives are N(1, 1), negatives N(0, 1): the AUC is Phi(1 / sqrt 2) = 0.76025.
        rng = np.random.default_rng(1)
        labels = np.repeat([1.0, 0.0], [30, 120])
        held = 0
        for _ in range(1000):
            interval = auc_interval(labels, rng.standard_normal(150) + labels)
            held += interval.low <= 0.76025 <= interval.high
        assert 0.92 <= held / 1000 <= 0.97

    def test_the_paired_interval_of_equally_good_scores_holds_zero_19_times_in_20(self) -> None:
        rng = np.random.default_rng(2)
        labels = np.repeat([1.0, 0.0], [60, 140])
        excluded = 0
        for _ in range(1000):
            common = rng.standard_normal(200) + labels
            ours, theirs = (common + 0.5 * rng.standard_normal(200) for _ in range(2))
            excluded += auc_difference(labels, ours, theirs).excludes_zero
        assert 0.03 <= excluded / 1000 <= 0.08

    def test_the_same_score_differs_by_nothing(self) -> None:
        labels, scores = draw(200, 3)
        difference = auc_difference(labels, scores, scores)
        assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)

    @pytest.mark.parametrize("labels", [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    def test_one_of_a_label_is_too_few(self, labels: list[float]) -> None:
        with pytest.raises(ValueError, match="2 positives and 2 negatives"):
            delong(np.array(labels), np.zeros((1, 3)))


class TestEntropy:
    def test_log_loss_equals_scikit_learn(self) -> None:
        labels, scores = draw(300, 4)
        assert log_losses(labels, scores).mean() == pytest.approx(sklearn_log_loss(labels, scores), rel=1e-9)

    def test_of_a_fair_coin_is_ln_2(self) -> None:
        assert entropies(np.array([0.5]))[0] == pytest.approx(np.log(2))

    def test_by_hand(self) -> None:
        # Labels 1, 0 have entropy ln 2; the loss of 0.8 and 0.4 is -(ln 0.8 + ln 0.6) / 2.
        found = normalized_entropies(np.array([1.0, 0.0]), np.array([[0.8, 0.4], [0.5, 0.5]]), np.array([0, 0]))
        assert found.values_K == pytest.approx([-(np.log(0.8) + np.log(0.6)) / 2 / np.log(2), 1.0])

    def test_the_interval_is_that_of_the_normal_approximation_where_clusters_are_examples(self) -> None:
        labels, truth = draw(4000, 5)
        blurred = np.clip(truth + 0.05, 0.01, 0.99)
        found = normalized_entropies(labels, np.stack([truth, blurred]), np.arange(4000))
        difference = found.difference(0, 1)
        losses = log_losses(labels, truth) - log_losses(labels, blurred)
        half = 1.96 * losses.std() / np.sqrt(4000) / entropies(labels.mean())
        assert difference.high - difference.value == pytest.approx(half, rel=0.15)
        assert difference.value - difference.low == pytest.approx(half, rel=0.15)

    def test_clusters_widen_the_interval(self) -> None:
        labels, truth = draw(200, 6)
        labels, truth = np.repeat(labels, 10), np.repeat(truth, 10)
        alone = normalized_entropies(labels, truth[None], np.arange(2000)).interval(0)
        together = normalized_entropies(labels, truth[None], np.repeat(np.arange(200), 10)).interval(0)
        assert together.high - together.low > 2 * (alone.high - alone.low)

    def test_one_label_alone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs both labels, got 3 of 0"):
            normalized_entropies(np.zeros(3), np.full((1, 3), 0.5), np.arange(3))
