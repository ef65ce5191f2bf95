import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from ranker.config import LearnerConfig, UpdateConfig
from ranker.engine import Engine
from ranker.grades import PRIOR_LABELS, BaseRate, grade
from ranker.inputs.requests import LabelledRequest
from ranker.learning.learner import Learner
from ranker.learning.lessons import assign_tiers
from ranker.learning.state import restore, training_state
from ranker.recipes import demo_model
from ranker.updates.log import Dirty
from tests.ranker.samples import (
    COMPRESS,
    at,
    labelled,
    lessons_of,
    request,
    tiny_learner,
    tiny_model,
    traffic,
    update_of,
)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit (nan equals itself)."""
    return a.keys() == b.keys() and all(_bytes(a[k]) == _bytes(b[k]) for k in a)


def _bytes(tensor: Tensor) -> bytes:
    tensor = tensor.contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def scores(learner: Learner, tier: str, items: list[str], *, user: str = "u") -> list[float]:
    """As a replica would answer that follows this learner."""
    engine = Engine(learner.config, COMPRESS)
    copy = tiny_learner(learner.config)
    restore(copy, training_state(learner))
    touch_all(copy)
    engine.apply(update_of(copy, 1), at(1))
    return engine.score(tier, [request(user, items)])[0].pctr.tolist()  # type: ignore[no-any-return]


def touch_all(learner: Learner) -> None:
    learner.mark_dirty(
        Dirty(
            {name: key_map.items()[0] for name, key_map in learner.tables.key_maps.items()},
            {name: np.arange(8) for name in learner.tables.key_maps},
        )
    )


@pytest.mark.parametrize("tier", ["light", "heavy"])
def test_a_clicked_pair_rises_against_its_control(tier: str) -> None:
    learner = tiny_learner(tiny_model())
    before = scores(learner, tier, ["clicked", "control"])
    for i in range(40):
        learner.learn([labelled(i, request("u", ["clicked", "control"]), [1, 0], tier=tier)])
    after = scores(learner, tier, ["clicked", "control"])
    assert after[0] - before[0] > 0.1
    assert after[0] - after[1] > 0.3


def test_log_loss_falls_below_the_base_rates() -> None:
    """Users of one half click the items of one half: neither says anything alone."""
    rng = np.random.default_rng(0)
    learner = tiny_learner(demo_model(), dearer_share=0.0, row_rate=0.3)
    engine = Engine(learner.config, COMPRESS)
    served, base = [], []
    for step in range(90):
        examples = []
        for i in range(6):
            user, items = int(rng.integers(0, 10)), rng.integers(0, 20, 4)
            scoring = request(f"u{user}", [f"i{k}" for k in items])
            clicks = [float(rng.random() < (0.9 if user % 2 == k % 2 else 0.1)) for k in items]
            example = labelled(6 * step + i, scoring, clicks)
            if step:
                example = dataclasses.replace(example, pctr_N=engine.score("light", [scoring])[0].pctr)
            examples.append(example)
        report = learner.learn(examples)
        engine.apply(update_of(learner, step + 1), at(step + 1))
        served.append(report.click.served / report.click.count)
        base.append(report.click.base / report.click.count)
    assert np.mean(base[-15:]) > 0.65
    assert np.mean(served[-15:]) < 0.45


def test_every_tier_learns_what_it_should() -> None:
    config = tiny_model()
    example = labelled(0, request(), [1, 0])
    heavy = dataclasses.replace(example, tier="heavy")
    assert assign_tiers(config, heavy, 0.0) == ["light", "heavy"]
    assert assign_tiers(config, example, 0.0) == ["light"]
    assert assign_tiers(config, example, 1.0) == ["light", "heavy"]
    assert assign_tiers(config, dataclasses.replace(example, tier="gone"), 0.0) == ["light"]
    sampled = [assign_tiers(config, labelled(i, request(), [1, 0]), 0.25) for i in range(2000)]
    assert sum("heavy" in tiers for tiers in sampled) == pytest.approx(500, abs=60)
    assert sampled == [assign_tiers(config, labelled(i, request(), [1, 0]), 0.25) for i in range(2000)]


def test_a_tier_that_learned_nothing_gets_the_base_rate_alone() -> None:
    learner = tiny_learner(tiny_model(), dearer_share=0.0)
    before = {name: p.detach().clone() for name, p in learner.parameters.items()}
    learner.learn([labelled(0, request(), [1, 0])])
    changed = {name for name, p in learner.parameters.items() if not torch.equal(p, before[name])}
    assert {name for name in changed if name.startswith("heavy/")} == {"heavy/heads.out_bias", "heavy/evidence.bias"}
    assert len(changed) > 20


def test_biases_follow_the_base_rate_while_labels_are_few() -> None:
    learner = tiny_learner(dataclasses.replace(tiny_model(), click_prior=0.01), dearer_share=0.0)
    for step in range(50):
        learner.learn([labelled(step, request(), [1, 0])])
    for tier in learner.tiers.values():
        assert torch.sigmoid(tier.heads.out_bias[0]).item() == pytest.approx(0.5, abs=0.1)
        assert torch.sigmoid(tier.heads.out_bias[1]).item() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("poison", ["light/heads.out_bias", "heavy/heads.out_bias", "items"])
def test_a_step_that_is_not_finite_changes_nothing(poison: str) -> None:
    learner = tiny_learner(tiny_model(), dearer_share=1.0)
    for examples in traffic(0, 5):
        learner.learn(examples)
    learner.take_changes()
    target = learner.tables.weights[poison] if poison == "items" else learner.parameters[poison].detach()
    target[:] = torch.nan
    before = training_state(learner)
    report = learner.learn(traffic(1, 1)[0])
    assert not report.applied
    assert report.click.count == 6
    assert same(training_state(learner), before)


def test_an_infinite_gradient_of_a_finite_loss_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = tiny_learner(tiny_model())
    learner.learn(traffic(0, 1)[0])
    before = training_state(learner)
    learner.parameters["light/heads.out_bias"].register_hook(lambda g: g * torch.inf)  # type: ignore[no-untyped-call]
    report = learner.learn(traffic(1, 1)[0])
    assert np.isfinite(report.loss)
    assert not report.applied
    assert same(training_state(learner), before)


def test_without_labels_nothing_changes() -> None:
    learner = tiny_learner(tiny_model())
    before = training_state(learner)
    nan = float("nan")
    for examples in ([], [labelled(0, request(), [nan, nan])], [labelled(0, request(items=[]), [])]):
        assert not learner.learn(examples).applied
    assert same(training_state(learner), before)


def test_the_same_input_gives_the_same_bits() -> None:
    first, second = (tiny_learner(tiny_model(rows=16)) for _ in range(2))
    torch.manual_seed(1)
    for examples in traffic(0, 20):
        first.learn(examples)
    torch.manual_seed(2)
    for examples in traffic(0, 20):
        second.learn(examples)
    assert same(training_state(first), training_state(second))


def test_a_restored_learner_goes_on_as_if_nothing_had_happened() -> None:
    config = tiny_model(rows=16)
    first = tiny_learner(config)
    for examples in traffic(0, 10):
        first.learn(examples)
    second = tiny_learner(config)
    restore(second, training_state(first))
    assert same(training_state(second), training_state(first))
    for examples in traffic(1, 10):
        first.learn(examples)
        second.learn(examples)
    assert same(training_state(first), training_state(second))
    a, b = first.take_changes(), second.take_changes()
    assert same({n: v.data for n, v in a.dense.items()}, {n: v.data for n, v in b.dense.items()})
    for name in a.tables:
        assert torch.equal(a.tables[name].values_KD.data, b.tables[name].values_KD.data)
        assert a.tables[name].evicted_V.tolist() == b.tables[name].evicted_V.tolist()


def test_a_learner_that_goes_back_is_as_one_that_has_never_gone_on() -> None:
    """Also in the rows that only what it forgets has used."""
    once, back = tiny_learner(tiny_model()), tiny_learner(tiny_model())
    for examples in traffic(0, 5, items=8):
        once.learn(examples)
    state = training_state(once)
    restore(back, state)
    for examples in traffic(1, 20, items=200, users=50):
        back.learn(examples)
    restore(back, state)
    for examples in traffic(2, 10, items=200, users=50):
        once.learn(examples)
        back.learn(examples)
    ours, others = training_state(back), training_state(once)
    assert all(torch.equal(ours[name], others[name]) for name in others)


def test_served_predictions_are_graded_before_they_are_learned_from() -> None:
    learner = tiny_learner(tiny_model())
    example = dataclasses.replace(labelled(0, request(), [1, 0], [0, np.nan]), pctr_N=np.array([0.5, 0.25], np.float32))
    report = learner.learn([example])
    assert (report.click.count, report.click.positives) == (2, 1.0)
    assert report.click.served == pytest.approx(np.log(2) - np.log(0.75))
    prior = learner.config.click_prior
    assert report.click.base == pytest.approx(-np.log(prior) - np.log(1 - prior))
    assert (report.conversion.count, report.conversion.frozen) == (1, None)
    assert (report.click.calibration, report.conversion.calibration) == (0.75, None)  # no conversion came
    assert report.conversion.served == pytest.approx(-np.log(0.9), rel=1e-6)
    then = (PRIOR_LABELS * prior + 1) / (PRIOR_LABELS + 2)  # one click in two labels
    assert learner.learn([example]).click.base == pytest.approx(-np.log(then) - np.log(1 - then))


def test_a_base_rate_with_a_memory_follows_the_newest() -> None:
    ever, newest = BaseRate(0.5, 20), BaseRate(0.5, 20, memory=1_000)
    for label in (1.0, 0.0):
        for rate in (ever, newest):
            for _ in range(100):
                rate.observe(np.full(100, label, np.float32))
    assert ever.mean == pytest.approx(0.5)
    assert newest.count == 1_000
    assert newest.mean < 0.011


def test_a_prediction_cannot_be_infinitely_wrong() -> None:
    sums = grade(np.ones(1, np.float32), np.zeros(1, np.float32), None, BaseRate())
    assert sums.served == pytest.approx(-np.log(1e-6))
    assert sums.normalized_entropy == pytest.approx(sums.served / np.log(2))
    assert grade(np.full(1, np.nan, np.float32), np.zeros(1, np.float32), None, BaseRate()).normalized_entropy is None


def test_the_frozen_copy_scores_with_the_weights_it_was_frozen_with() -> None:
    learner = tiny_learner(tiny_model(), dearer_share=0.0)
    for examples in traffic(0, 5):
        learner.learn(examples)
    learner.freeze()
    probe = request("u1", ["i1", "i2"], log=["i3"])
    expected = {}
    for tier in ("light", "heavy"):
        engine = Engine(learner.config, COMPRESS)
        copy = Learner(learner.config, LearnerConfig(updates=UpdateConfig(rows="float32", dense="float32")), COMPRESS)
        restore(copy, training_state(learner))
        touch_all(copy)
        engine.apply(update_of(copy, 1), at(1))
        p = engine.score(tier, [probe])[0].pctr.astype(np.float64)
        expected[tier] = -np.log(p[0]) - np.log1p(-p[1])
    for examples in traffic(1, 5):
        learner.learn(examples)
    both = [labelled(0, probe, [1, 0], tier="light"), labelled(1, probe, [1, 0], tier="heavy")]
    first = learner.learn(both).click
    again = learner.learn(both).click
    assert first.frozen == pytest.approx(sum(expected.values()), rel=1e-5)
    assert again.frozen == first.frozen


def test_a_new_key_starts_where_its_tail_was_taught() -> None:
    learner = tiny_learner(tiny_model(), dearer_share=0.0)
    initial = learner.tables.weights["items"].clone()
    report = learner.learn([labelled(0, request("u", ["new"]), [1])])
    keys, rows = learner.tables.key_maps["items"].items()
    assert (len(keys), report.evicted) == (1, 0)
    tail = 256 + int(keys[0] % np.uint64(8))
    weights = learner.tables.weights["items"]
    assert torch.equal(weights[rows[0]], weights[tail])
    assert not torch.equal(weights[tail], initial[tail])
    assert learner.adagrad_sums["items"][rows[0]] == 0
    changed = learner.take_changes().tables["items"]
    assert (changed.keys_K.tolist(), changed.tails_W.tolist()) == (keys.tolist(), [tail - 256])
    learner.learn([labelled(1, request("u", ["new"]), [1])])
    assert learner.take_changes().tables["items"].tails_W.tolist() == []  # from now on it has a row of its own


def test_changes_are_taken_once_and_dirty_ones_again() -> None:
    learner = tiny_learner(tiny_model())
    learner.learn([labelled(0, request("u", ["a", "b"]), [1, 0])])
    first = learner.take_changes().tables["items"]
    assert len(first.keys_K) == 2
    second = learner.take_changes()
    assert len(second.tables["items"].keys_K) == 0
    assert second.dense.keys() == learner.take_changes().dense.keys()
    unknown = np.array([123], np.uint64)
    learner.mark_dirty(Dirty({"items": np.append(first.keys_K[:1], unknown)}, {"items": np.array([5])}))
    dirty = learner.take_changes().tables["items"]
    assert dirty.keys_K.tolist() == first.keys_K[:1].tolist()
    assert torch.equal(dirty.values_KD.data, first.values_KD.data[:1])
    assert (dirty.evicted_V.tolist(), dirty.tails_W.tolist()) == ([123], [5])


def test_positions_are_learned_and_not_served() -> None:
    """Clicks depend on position alone: the bias takes it up, and equal items get equal scores."""
    learner = tiny_learner(tiny_model(), dearer_share=0.0)
    for i in range(150):
        item = [f"i{i % 5}", f"i{(i + 1) % 5}"]
        learner.learn([labelled(i, request("u", item), [1, 0])])
    bias = learner.parameters["light/position.bias_P"]
    assert bias[0] - bias[1] > 0.1
    low, high = sorted(scores(learner, "light", ["i0", "i1"]))
    assert high - low < 0.1
    assert 0.3 < (low + high) / 2 < 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"click_N": np.zeros(3, np.float32)}, r"click_N must be \[2\]"),
        ({"click_N": np.array([2.0, 0], np.float32)}, r"labels in \[0, 1\]"),
        ({"position_N": np.array([-1, 0])}, "position_N must be >= 0"),
    ],
)
def test_labels_say_what_is_wrong(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(labelled(0, request(), [1, 0]), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"row_rate": 0.0}, {"dearer_share": 1.1}])
def test_settings_say_what_is_wrong(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LearnerConfig(**change)  # type: ignore[arg-type]


def test_examples_with_conversions_alone_are_learned_from() -> None:
    learner = tiny_learner(tiny_model())
    nan = float("nan")
    examples: list[LabelledRequest] = [labelled(0, request(), [nan, nan], [1, 0])]
    report = learner.learn(examples)
    assert report.applied
    assert (report.click.count, report.conversion.count) == (0, 2)


def test_a_label_among_few_weighs_no_more_than_one_among_many() -> None:
    """One in four is clicked; each click comes alone, and what was not clicked by threes."""
    learner = tiny_learner(dataclasses.replace(tiny_model(evidence=()), crosses=(), click_prior=0.25))
    for number in range(200):
        learner.learn([labelled(2 * number, request(items=["a"]), [1])])
        learner.learn([labelled(2 * number + 1, request(items=["a", "a", "a"]), [0, 0, 0])])
    [lesson, *_] = lessons_of(learner, [labelled(0, request(items=["a"]), [0])])
    with torch.no_grad():
        logits = learner.tiers["light"](lesson.batch, learner.tables, lesson.position_N)
    assert 0.2 < float(torch.sigmoid(logits.click_N)) < 0.38
