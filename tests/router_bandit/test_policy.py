import math
from collections import Counter
from typing import Any

import pytest

from router_bandit.policy import Exploration, choose, inverse_gap_weighting, uniform_draw

VALUES = {"light": 0.10, "medium": 0.13, "heavy": 0.15}
COSTS = {"light": 2.0, "medium": 6.0, "heavy": 20.0}

# Every choice is a policy in a state: what holds for one must hold for all.
SITUATIONS = {
    "sharp": {"exploration": Exploration(gamma=1e6, floor=0.05), "price": 0.001},
    "soft": {"exploration": Exploration(gamma=30, floor=0.1), "price": 0.001},
    "uniform": {"exploration": Exploration(gamma=0, floor=0.5), "price": 0.0},
    "dear": {"exploration": Exploration(gamma=100, floor=0.02), "price": 10.0},
    "restricted": {"exploration": Exploration(), "price": 0.001, "allowed": {"heavy", "light"}},
    "forced": {"exploration": Exploration(), "price": 0.001, "allowed": ["light"]},
}


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=list(SITUATIONS))
class TestEveryPolicy:
    def test_logged_probability_is_the_long_run_frequency(self, situation: dict[str, Any]) -> None:
        n = 20_000
        choices = [choose(VALUES, COSTS, **situation, draw=uniform_draw(f"r{i}", seed=7)) for i in range(n)]
        counts = Counter(choice.plan for choice in choices)
        for plan, probability in choices[0].probabilities.items():
            four_sigma = 4 * math.sqrt(probability * (1 - probability) / n)
            assert abs(counts[plan] / n - probability) <= four_sigma, plan

    def test_probabilities_sum_to_one_and_keep_the_floor(self, situation: dict[str, Any]) -> None:
        choice = choose(VALUES, COSTS, **situation, draw=0.5)
        allowed = set(situation.get("allowed", VALUES))
        assert math.fsum(choice.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert list(choice.probabilities) == list(VALUES)
        for plan, probability in choice.probabilities.items():
            if plan in allowed:
                assert probability >= situation["exploration"].floor / len(allowed)
            else:
                assert probability == 0.0

    @pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-53])
    def test_the_same_draw_makes_the_same_possible_choice(self, situation: dict[str, Any], draw: float) -> None:
        first = choose(VALUES, COSTS, **situation, draw=draw)
        assert first == choose(VALUES, COSTS, **situation, draw=draw)
        assert first.probability > 0

    def test_forced_means_that_one_plan_alone_was_allowed(self, situation: dict[str, Any]) -> None:
        assert choose(VALUES, COSTS, **situation, draw=0.5).forced == (situation.get("allowed") == ["light"])


def test_one_choice_by_hand() -> None:
    # Scores .10 - .02 = .08 and .15 - .2 = -.05: gap .13; 1 / (2 + 100 * .13) = 1/15; then 0.9 of it plus 0.1 / 2.
    choice = choose(
        {"light": 0.10, "heavy": 0.15},
        {"light": 2.0, "heavy": 20.0},
        0.01,
        exploration=Exploration(gamma=100, floor=0.1),
        draw=0.9,
    )
    assert choice.probabilities == pytest.approx({"light": 0.9 * 14 / 15 + 0.05, "heavy": 0.9 / 15 + 0.05})
    assert choice.plan == "heavy"  # light has 0.89 of the interval


def test_inverse_gap_weighting_by_hand() -> None:
    assert inverse_gap_weighting({"a": 1.0, "b": 0.5}, gamma=4) == {"a": 0.75, "b": 0.25}
    assert inverse_gap_weighting({"a": 1.0, "b": 1.0}, gamma=4) == {"a": 0.5, "b": 0.5}
    assert inverse_gap_weighting({"a": -3.0}, gamma=4) == {"a": 1.0}


def test_a_rising_price_moves_the_choice_to_cheap_plans() -> None:
    def mean_cost(price: float) -> float:
        p = choose(VALUES, COSTS, price, exploration=Exploration(gamma=1000), draw=0.0).probabilities
        return sum(p[plan] * COSTS[plan] for plan in p)

    costs = [mean_cost(price) for price in (0.0, 0.001, 0.002, 0.005, 0.02, 1.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 15
    assert costs[-1] < 3


def test_one_plan_in_all_is_no_forced_choice() -> None:
    choice = choose({"light": 1.0}, {"light": 1.0}, 0.0, exploration=Exploration(), draw=0.3)
    assert (choice.plan, choice.probability, choice.forced) == ("light", 1.0, False)


def test_draws_are_uniform_and_follow_from_id_and_seed() -> None:
    draws = [uniform_draw(f"response-{i}", seed=1) for i in range(10_000)]
    assert all(0 <= draw < 1 for draw in draws)
    counts = Counter(int(draw * 10) for draw in draws)
    chi_squared = sum((counts[tenth] - 1000) ** 2 / 1000 for tenth in range(10))
    assert chi_squared < 27.9  # 99.9 % point of chi-squared with 9 degrees of freedom
    assert uniform_draw("response-1", seed=1) == draws[1]
    assert uniform_draw("response-1", seed=2) != draws[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": {"light": 1.0}}, "must name the same plans"),
        ({"values": {**VALUES, "heavy": math.nan}}, "value of plan 'heavy' must be finite"),
        ({"costs": {**COSTS, "light": math.inf}}, "cost of plan 'light' must be finite"),
        ({"price": -1.0}, "price must be"),
        ({"draw": 1.0}, "draw must be in"),
        ({"allowed": []}, "allowed must be some of"),
        ({"allowed": ["huge"]}, "allowed must be some of"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_cannot_be_chosen_from_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "values": VALUES,
        "costs": COSTS,
        "price": 0.1,
        "draw": 0.5,
        "exploration": Exploration(),
    } | change
    with pytest.raises(ValueError, match=message):
        choose(**arguments)


@pytest.mark.parametrize("options", [{"floor": 0.0}, {"floor": 1.1}, {"gamma": -1.0}, {"gamma": math.inf}], ids=str)
def test_exploration_without_exploration_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Exploration(**options)
