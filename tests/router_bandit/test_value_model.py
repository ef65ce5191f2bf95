import random
from collections.abc import Callable
from typing import Any

import pytest
from vowpalwabbit import Workspace

from router_bandit import value_model
from router_bandit.value_model import ModelBytesError, ValueOptions, VWValueModel

PLANS = ["light", "heavy"]
OPTIONS = ValueOptions(value_scale=2.0)
LONG: dict[str, str | float] = {"log": "long", "load": 0.5}
HOSTILE = 'feed |P plan=heavy:9\n0:-1:1 |x y:nan\r\t"%'


def true_value(context: dict[str, str | float], plan: str) -> float:
    """Long logs are worth the heavy plan, others are not."""
    return {("long", "heavy"): 0.8, ("long", "light"): 0.4, ("short", "heavy"): 0.3, ("short", "light"): 0.5}[
        (str(context["log"]), plan)
    ]


def teach(model: VWValueModel, n: int, seed: int) -> None:
    """Uniform logging, rewards of 0 or 2 with the mean true_value."""
    rng = random.Random(seed)
    for _ in range(n):
        context: dict[str, str | float] = {"log": rng.choice(["long", "short"]), "load": rng.random()}
        plan = rng.choice(PLANS)
        earned = 2.0 * (rng.random() < true_value(context, plan) / 2)
        model.learn(context, PLANS, plan, 0.5, earned)


def test_it_learns_which_plan_is_better_in_which_context() -> None:
    model = VWValueModel(OPTIONS)
    teach(model, 20_000, seed=0)
    for log in ("long", "short"):
        predicted = model.predict({"log": log, "load": 0.5}, PLANS)
        for plan in PLANS:
            assert predicted[plan] == pytest.approx(true_value({"log": log}, plan), abs=0.12), (log, plan)


def test_unequal_propensities_do_not_bias_the_values() -> None:
    model, rng = VWValueModel(ValueOptions()), random.Random(1)
    for _ in range(20_000):
        plan, p = ("heavy", 0.1) if rng.random() < 0.1 else ("light", 0.9)
        model.learn({"s": "feed"}, PLANS, plan, p, float(rng.random() < {"heavy": 0.3, "light": 0.2}[plan]))
    assert model.predict({"s": "feed"}, PLANS) == pytest.approx({"light": 0.2, "heavy": 0.3}, abs=0.06)


def test_nothing_learned_predicts_nothing_and_a_new_plan_can_join() -> None:
    model = VWValueModel(OPTIONS)
    assert model.predict({}, PLANS) == {"light": 0.0, "heavy": 0.0}
    teach(model, 100, seed=0)
    assert set(model.predict({"log": "long"}, [*PLANS, "new"])) == {"light", "heavy", "new"}


def test_predictions_are_in_the_order_of_the_plans() -> None:
    model = VWValueModel(OPTIONS)
    teach(model, 2_000, seed=3)
    assert model.predict(LONG, PLANS) == pytest.approx(model.predict(LONG, PLANS[::-1]))


def test_a_stored_model_goes_on_learning_as_the_first() -> None:
    model = VWValueModel(OPTIONS)
    teach(model, 500, seed=0)
    stored = model.to_bytes()
    resumed = VWValueModel.from_bytes(stored, OPTIONS)
    served = VWValueModel.from_bytes(stored, OPTIONS, read_only=True)
    assert served.predict(LONG, PLANS) == pytest.approx(model.predict(LONG, PLANS), rel=1e-5)
    for each in (model, resumed):
        teach(each, 500, seed=1)
    assert resumed.predict(LONG, PLANS) == model.predict(LONG, PLANS)
    with pytest.raises(RuntimeError, match="read-only"):
        teach(served, 1, seed=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda blob: blob[:20], "starts with"),
        (lambda blob: b"XXXX" + blob[4:], "starts with"),
        (lambda blob: blob[:4] + b"\x02" + blob[5:], "starts with"),
        (lambda blob: blob[:-1], "checksum"),
        (lambda blob: blob[:-1] + bytes([blob[-1] ^ 1]), "checksum"),
    ],
    ids=["short", "magic", "version", "cut", "flipped"],
)
def test_damaged_bytes_are_refused(damage: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(ModelBytesError, match=message):
        VWValueModel.from_bytes(damage(VWValueModel(OPTIONS).to_bytes()), OPTIONS)


def test_a_model_of_other_options_is_refused() -> None:
    with pytest.raises(ModelBytesError, match="other options"):
        VWValueModel.from_bytes(VWValueModel(OPTIONS).to_bytes(), ValueOptions(value_scale=3.0))


def test_the_options_digest_changes_only_with_options_or_features() -> None:
    assert ValueOptions().digest().hex() == "0e0c10ed2c04f8a125cadb9c2e660d59"


def test_hostile_names_and_values_stay_one_feature_each() -> None:
    lines = value_model._lines({HOSTILE: HOSTILE, "n": 1.5, "|": "a b"}, [HOSTILE, "b"], {"b": "0:-0.5:0.25 "})
    vw = Workspace("--cb_adf --quiet")
    examples = vw.parse(lines)
    # Beside the constant, 3 context features in the shared line and 1 in each plan's.
    assert [len(list(example.iter_features())) for example in examples] == [4, 2, 2]
    vw.finish_example(examples)


@pytest.mark.parametrize(
    "bad", [{"": "x"}, {"n": float("nan")}, {"n": float("inf")}, {"n": True}, {"n": ["a"]}], ids=str
)
def test_contexts_that_vw_would_misread_are_refused(bad: Any) -> None:
    model = VWValueModel(OPTIONS)
    with pytest.raises(ValueError, match="context feature"):
        model.predict(bad, PLANS)


@pytest.mark.parametrize("number", [0.0, -0.0, 1e-30, -1e12, 1e12, 123456789.123, 7])
def test_every_finite_number_is_written_as_vw_reads_it(number: float) -> None:
    model = VWValueModel(OPTIONS)
    assert set(model.predict({"n": number}, PLANS)) == set(PLANS)


@pytest.mark.parametrize(
    ("plan", "probability", "earned", "message"),
    [
        ("huge", 0.5, 1.0, "must be one of"),
        ("heavy", 0.0, 1.0, r"in \(0, 1\]"),
        ("heavy", 1.1, 1.0, r"in \(0, 1\]"),
        ("heavy", 0.5, float("nan"), "earned must be finite"),
    ],
)
def test_examples_that_cannot_be_learned_are_refused_untouched(
    plan: str, probability: float, earned: float, message: str
) -> None:
    model = VWValueModel(OPTIONS)
    with pytest.raises(ValueError, match=message):
        model.learn({"log": "long"}, PLANS, plan, probability, earned)
    assert model.predict({"log": "long"}, PLANS) == {"light": 0.0, "heavy": 0.0}


def test_earnings_are_clipped_and_counted() -> None:
    model = VWValueModel(ValueOptions(value_scale=2.0, learning_rate=0.5))
    for _ in range(200):
        model.learn({}, ["only"], "only", 1.0, 50.0)
    assert model.clipped == 200
    assert model.predict({}, ["only"])["only"] == pytest.approx(2.0, abs=0.05)
    model.learn({}, ["only"], "only", 1.0, 2.0)
    assert model.clipped == 200


@pytest.mark.parametrize("options", [{"value_scale": 0.0}, {"bits": 20}, {"learning_rate": 0.0}, {"l2": -1.0}], ids=str)
def test_options_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        ValueOptions(**options)
