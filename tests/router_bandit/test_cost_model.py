import random

import pytest

from router_bandit.cost_model import CostModel, CostPrior


def true_ms(candidates: int, events: int) -> float:
    return 3.0 + 0.04 * candidates + 0.002 * events


def teach(model: CostModel, n: int, scale: float = 1.0, seed: int = 0) -> None:
    rng = random.Random(seed)
    for _ in range(n):
        candidates, events = rng.randint(20, 1000), rng.randint(0, 2000)
        model.learn("heavy", candidates, events, scale * true_ms(candidates, events) * rng.lognormvariate(0, 0.1))


def test_before_any_measurement_the_prior_speaks() -> None:
    model = CostModel({"heavy": CostPrior(base_ms=2.0, per_100_candidates_ms=3.0, per_1000_events_ms=4.0)})
    assert model.predict("heavy", 200, 500) == pytest.approx(2.0 + 6.0 + 2.0)
    assert model.predict("unknown", 0, 0) == pytest.approx(CostPrior().base_ms)
    assert model.seen("heavy") == 0


def test_it_learns_costs_at_both_ends_of_the_range() -> None:
    model = CostModel()
    teach(model, 1000)
    for candidates, events in [(20, 0), (100, 2000), (1000, 0), (1000, 2000)]:
        assert model.predict("heavy", candidates, events) == pytest.approx(true_ms(candidates, events), rel=0.1)
    assert model.seen("heavy") == 1000


def test_a_lasting_change_is_followed() -> None:
    model = CostModel(memory=200)
    teach(model, 500)
    teach(model, 500, scale=2.0, seed=1)
    assert model.predict("heavy", 300, 1000) == pytest.approx(2 * true_ms(300, 1000), rel=0.15)


def test_one_stall_moves_little() -> None:
    model = CostModel()
    teach(model, 500)
    before = model.predict("heavy", 300, 1000)
    model.learn("heavy", 300, 1000, 60_000.0)
    assert model.predict("heavy", 300, 1000) < 1.05 * before


def test_a_first_measurement_far_above_the_prior_is_believed() -> None:
    model = CostModel({"heavy": CostPrior(base_ms=1.0, per_100_candidates_ms=0.0, per_1000_events_ms=0.0)}, ridge=0.01)
    model.learn("heavy", 100, 1000, 300.0)
    assert model.predict("heavy", 100, 1000) > 250.0


def test_more_candidates_are_never_predicted_to_cost_less() -> None:
    model, rng = CostModel(), random.Random(0)
    for _ in range(300):  # noise alone: a free fit would have a negative slope somewhere
        candidates = rng.randint(20, 1000)
        model.learn("heavy", candidates, 0, max(0.0, 12 - 0.008 * candidates + rng.gauss(0, 0.5)))
    costs = [model.predict("heavy", candidates, 0) for candidates in (0, 20, 1000, 2000)]
    assert costs == sorted(costs)
    assert costs[0] >= 0


def test_a_load_that_never_varies_keeps_the_fit_sane() -> None:
    model = CostModel()
    for _ in range(5000):
        model.learn("light", 100, 0, 4.0)
    assert model.predict("light", 100, 0) == pytest.approx(4.0, rel=0.02)
    assert 0 <= model.predict("light", 1000, 2000) < 60


@pytest.mark.parametrize("measured", [-1.0, float("nan"), float("inf")])
def test_what_is_no_cost_is_refused(measured: float) -> None:
    model = CostModel()
    with pytest.raises(ValueError, match="measured_ms of plan 'light'"):
        model.learn("light", 10, 10, measured)
    assert model.seen("light") == 0


def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="memory"):
        CostModel(memory=0)
    with pytest.raises(ValueError, match="negative"):
        CostPrior(base_ms=-1.0)
