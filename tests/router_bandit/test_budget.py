import random
from collections import deque
from itertools import pairwise
from statistics import mean
from typing import Any

import pytest

from router_bandit.budget import BudgetOptions, PriceController
from router_bandit.policy import Exploration, choose

BUDGET = 8.0
PHASE = 20_000


def simulate(controller: PriceController, *, delay: int, gamma: float = 1000.0, seed: int = 0) -> list[float]:
    """Costs of three phases of PHASE requests: normal, everything 1.6 times as dear, normal. Costs reach the
    controller `delay` requests late."""
    rng = random.Random(seed)
    on_their_way: deque[tuple[float, float]] = deque()
    costs = []
    for i in range(3 * PHASE):
        load = 1.6 if PHASE <= i < 2 * PHASE else 1.0
        gain = rng.random()
        values = {"light": 0.10, "medium": 0.10 + 0.03 * gain, "heavy": 0.10 + 0.05 * gain}
        predicted = {"light": 3.0 * load, "medium": 9.0 * load, "heavy": 20.0 * load}
        choice = choose(values, predicted, controller.price, exploration=Exploration(gamma=gamma), draw=rng.random())
        costs.append(predicted[choice.plan] * rng.lognormvariate(0, 0.3))
        on_their_way.append((costs[-1], controller.price))
        if len(on_their_way) > delay:
            controller.observe(*on_their_way.popleft())
    return costs


@pytest.mark.parametrize("initial", [1e-5, 1e-3, 0.1])
@pytest.mark.parametrize("gamma", [20.0, 1000.0, 1e5], ids=["flat", "middling", "steep"])
def test_the_budget_is_held_through_a_change_of_load_without_oscillation(gamma: float, initial: float) -> None:
    controller = PriceController(BudgetOptions(budget_ms=BUDGET, initial_price=initial))
    costs = simulate(controller, delay=0, gamma=gamma)
    for phase in range(3):
        settled = costs[phase * PHASE + PHASE // 2 : (phase + 1) * PHASE]
        assert mean(settled) == pytest.approx(BUDGET, rel=0.05), f"phase {phase}"
        fifths = [mean(settled[i : i + PHASE // 10]) for i in range(0, len(settled), PHASE // 10)]
        assert max(fifths) / min(fifths) < 1.12, f"phase {phase}: {fifths}"


def test_costs_that_come_late_do_not_make_it_oscillate() -> None:
    controller = PriceController(BudgetOptions(budget_ms=BUDGET))
    costs = simulate(controller, delay=1000)
    assert mean(costs[PHASE // 2 : PHASE]) == pytest.approx(BUDGET, rel=0.05)
    assert mean(costs[PHASE + PHASE * 3 // 4 : 2 * PHASE]) == pytest.approx(BUDGET, rel=0.05)
    settled = controller.history[3:12]  # of the first phase
    assert all(max(a, b) / min(a, b) < 1.5 for a, b in pairwise(settled))


def test_costs_of_another_price_do_not_count() -> None:
    controller = PriceController(BudgetOptions(budget_ms=1.0, window=2))
    price = controller.price
    assert not controller.observe(100.0, price * 2)
    assert not controller.observe(2.0, price)
    assert not controller.observe(100.0, price / 2)
    assert controller.observe(2.0, price)
    assert controller.spent_ms == 2.0
    assert controller.price > price
    assert controller.history == [price]


def test_a_bound_leaves_nothing_to_wind_up() -> None:
    options = BudgetOptions(budget_ms=10.0, window=1, initial_price=1.0, price_min=0.5, price_max=2.0)
    controller = PriceController(options)
    for _ in range(1000):
        controller.observe(1e6, controller.price)
    assert controller.price == 2.0
    assert len(controller.history) == 1  # a price that does not move is no history
    controller.observe(1.0, controller.price)
    assert controller.price < 2.0  # the first cheap window counts at once
    for _ in range(1000):
        controller.observe(0.0, controller.price)
    assert controller.price == 0.5


def test_it_goes_on_where_another_stopped() -> None:
    options = BudgetOptions(budget_ms=10.0, window=1)
    first = PriceController(options)
    for _ in range(400):
        first.observe(random.Random(0).uniform(5, 20), first.price)
    second = PriceController(options, price=first.price, history=first.history)
    assert second.price == first.price
    assert second.history == first.history
    assert len(second.history) <= 256


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_what_is_no_cost_is_refused(cost: float) -> None:
    controller = PriceController(BudgetOptions(window=1))
    with pytest.raises(ValueError, match="cost_ms"):
        controller.observe(cost, controller.price)
    assert controller.price == BudgetOptions().initial_price


@pytest.mark.parametrize(
    "options",
    [{"budget_ms": 0.0}, {"window": 0}, {"price_min": 0.0}, {"initial_price": 1e9}, {"gain_min": 0.0}],
    ids=str,
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        BudgetOptions(**options)
