"""A fair start: draws that are wide for what was hardly shown, and narrow for what is known."""

import numpy as np
import pytest

from streams.workers.rank.exploration import drawn_probabilities, normal_draws

N = 200_000


def draws(p: float, shown: float, prior_clicks: float = 3.0) -> np.ndarray:
    p_N, shown_N = np.full(N, p, np.float32), np.full(N, shown, np.float32)
    return drawn_probabilities(p_N, shown_N, normal_draws(f"{p}/{shown}", N), prior_clicks)


@pytest.mark.parametrize(("p", "shown"), [(0.02, 0), (0.02, 500), (0.1, 50), (0.5, 200)])
def test_draws_spread_as_the_beta_posterior_does(p: float, shown: float) -> None:
    """The exact posterior of what was shown so often, with the prior's clicks: its log-odds, and ours."""
    trials = 3.0 / p + shown
    beta = np.random.default_rng(0).beta(trials * p, trials * (1 - p), N)
    exact, ours = (np.log(x / (1 - x)) for x in (beta, draws(p, shown).astype(np.float64)))
    assert ours.mean() == pytest.approx(np.log(p / (1 - p)), abs=0.01)
    assert ours.std() == pytest.approx(exact.std(), rel=0.2)


def test_the_more_was_shown_the_less_is_drawn() -> None:
    spreads = [draws(0.05, shown).std() for shown in (0, 100, 1_000, 10_000)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 0.1 * spreads[0]


def test_draws_are_of_the_response_alone() -> None:
    assert normal_draws("a", 9).tolist() == normal_draws("a", 9).tolist()
    assert normal_draws("a", 9).tolist() != normal_draws("b", 9).tolist()
    assert normal_draws("a", 9)[:4].tolist() == normal_draws("a", 4).tolist()


@pytest.mark.parametrize("p", [0.0, 1e-9, 1.0])
def test_certain_predictions_stay_probabilities(p: float) -> None:
    for normal in (-5, 5):
        z_N = np.full(1, normal, np.float32)
        assert 0 < drawn_probabilities(np.array([p], np.float32), np.zeros(1, np.float32), z_N, 1e-9)[0] < 1
