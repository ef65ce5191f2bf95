"""What the settings of learning refuse, given from Python too, where no reader of TOML came before."""

from math import inf, nan

import pytest

from ranker.config import GateConfig, LearnerConfig, UpdateConfig

RATES = ["dense_rate", "plain_rate", "row_rate", "cross_rate", "past_weight", "conversion_weight", "max_grad_norm"]


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("value", [nan, 0.0, -1.0])
def test_rates_are_above_zero(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="rates, norm and weights must be > 0"):
        LearnerConfig(**{name: value})  # type: ignore[arg-type]


def test_all_but_the_norm_are_finite() -> None:
    with pytest.raises(ValueError, match="all but the norm finite"):
        LearnerConfig(row_rate=inf)
    assert LearnerConfig(max_grad_norm=inf).max_grad_norm == inf


@pytest.mark.parametrize("value", [-0.5, nan, inf])
def test_the_weight_of_distillation_is_finite_and_not_below_zero(value: float) -> None:
    with pytest.raises(ValueError, match="distillation_weight must be >= 0 and finite, got"):
        LearnerConfig(distillation_weight=value)
    assert LearnerConfig(distillation_weight=0.0).distillation_weight == 0


@pytest.mark.parametrize("name", ["max_change", "max_row_value", "held_out_jump", "held_out_nats"])
def test_bounds_of_the_gate_are_numbers(name: str) -> None:
    with pytest.raises(ValueError, match="bounds must be > 0"):
        GateConfig(**{name: nan})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["worse_tolerance", "strange_tolerance"])
def test_tolerances_of_the_gate_are_numbers(name: str) -> None:
    with pytest.raises(ValueError, match="tolerances must be >= 0"):
        GateConfig(**{name: nan})  # type: ignore[arg-type]


def test_what_moved_is_a_number() -> None:
    with pytest.raises(ValueError, match="moved >= 0"):
        UpdateConfig(moved=nan)
