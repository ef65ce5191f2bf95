"""What the gate lets through, and what it does not."""

import dataclasses

import numpy as np
import pytest
import torch

from ranker.config import STATISTICS, GateConfig, LearnerConfig, UpdateConfig
from ranker.engine import Engine
from ranker.gate.checks import LabelTests, check_weights, held_out
from ranker.gate.held_out_window import HeldOutWindow
from ranker.grades import Compared
from ranker.learning.learner import Learner
from tests.ranker.samples import COMPRESS, at, labelled, request, tiny_learner, tiny_model, traffic, update_of

WINDOW_MS = 2_000
CONFIG = GateConfig()


def labels(
    seed: int, n: int, *, start_ms: int = 0, flipped: float = 0.0, served_noise: float = 0.0, low: float = 0.0
) -> Compared:
    """Ten milliseconds apart; the references know the truth, the newer one but for so many nats less."""
    rng = np.random.default_rng(seed)
    logit_n = rng.normal(-2.4, 0.8, n)
    p_n = 1 / (1 + np.exp(-logit_n))
    y_n = (rng.random(n) < p_n) ^ (rng.random(n) < flipped)
    served_n = 1 / (1 + np.exp(-(logit_n + rng.normal(0, 1, n) * served_noise)))
    reference_n = 1 / (1 + np.exp(-(logit_n - low)))
    return Compared(y_n.astype(np.float64), served_n, reference_n, p_n, start_ms + 10 * np.arange(n))


def label_tests() -> LabelTests:
    return LabelTests(CONFIG, {"click": WINDOW_MS, "conversion": 10 * WINDOW_MS})


def alike(label: float, shown_ms_n: np.ndarray) -> Compared:
    """All of them with this label, predicted as one in ten."""
    n = len(shown_ms_n)
    expected_n = np.full(n, 0.1)
    return Compared(np.full(n, label), expected_n, expected_n, expected_n, shown_ms_n)


def test_labels_are_judged_when_all_of_their_time_are_there() -> None:
    tests = label_tests()
    assert tests.observe({"click": alike(1, np.arange(1_000))}, watermark_ms=1_000) is None
    # The join holds its windows for long: clicks come all the time, and their watermark stands still.
    assert tests.observe({"click": alike(1, 1_000 + np.arange(9_000))}, watermark_ms=1_000) is None
    assert tests.labels == 0
    negatives = alike(0, np.arange(90_000) % 10_000)
    assert tests.observe({"click": negatives}, watermark_ms=WINDOW_MS + 10_000) is None
    assert tests.labels == 100_000
    assert not tests.suspicious


def test_where_all_is_clicked_that_is_seen_too() -> None:
    breach = label_tests().observe({"click": alike(1, np.arange(500))}, watermark_ms=WINDOW_MS + 500)
    assert breach is not None
    assert breach.test == "strange"
    assert (
        "since 00:00:00 UTC, 250 are positive; 25 the reference expects, 25 the one before it, and 25 what was served"
        in breach.reason
    )


@pytest.mark.parametrize(
    ("bad", "test"),
    [
        ({"flipped": 0.3}, "strange"),
        ({"flipped": 0.1}, "strange"),
        ({"served_noise": 2.0}, "worse"),
        ({"low": 1.0}, "reference"),
        ({"low": 1.0, "flipped": 0.2}, "strange"),
    ],
)
def test_a_breach_names_its_test_and_when_it_began(bad: dict[str, float], test: str) -> None:
    tests, onset_ms = label_tests(), 300_000
    assert tests.observe({"click": labels(0, 30_000)}, watermark_ms=onset_ms) is None
    breach, start = None, onset_ms
    while breach is None and start < 2 * onset_ms:
        breach = tests.observe({"click": labels(start, 100, start_ms=start, **bad)}, watermark_ms=start)
        start += 1_000
    assert breach is not None
    assert breach.test == test
    assert "click" in breach.reason
    assert breach.since_ms is not None
    assert onset_ms - 60_000 < breach.since_ms < start
    tests.restart(after_ms=start)
    assert tests.quiet
    assert tests.observe({"click": labels(1, 10_000, start_ms=start)}, watermark_ms=start + 200_000) is None
    assert tests.quiet


def test_after_a_restart_older_labels_do_not_count() -> None:
    tests = label_tests()
    tests.restart(after_ms=5_000)
    tests.observe({"click": labels(0, 1_000)}, watermark_ms=100_000)
    assert tests.labels == 499


def trained() -> tuple[Learner, Engine]:
    learner = Learner(tiny_model(), LearnerConfig(updates=UpdateConfig(moved=0.0)), COMPRESS)
    engine = Engine(learner.config, COMPRESS)
    for number, examples in enumerate(traffic(0, 5), 1):
        learner.learn(examples)
        engine.apply(update_of(learner, number), at(number))
    return learner, engine


def checked(learner: Learner, engine: Engine) -> str | None:
    breach = check_weights(CONFIG, learner.dense, learner.tables.weights, engine.image)
    return None if breach is None else breach.test


def test_ordinary_steps_pass() -> None:
    learner, engine = trained()
    for examples in traffic(1, 5):
        learner.learn(examples)
    assert checked(learner, engine) is None


def test_a_thousandfold_rate_does_not() -> None:
    learner, engine = trained()
    for group in learner.adam.param_groups:
        group["full_rate"] *= 1_000
    learner.learn(traffic(1, 1)[0])
    assert checked(learner, engine) == "change"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_do_not(value: float) -> None:
    for where in ("dense", "rows"):
        learner, engine = trained()
        with torch.no_grad():
            if where == "dense":
                learner.parameters["light/heads.out_bias"][0] = value
            else:
                learner.tables.weights["items"][3, 0] = value
        assert checked(learner, engine) == "finite"


def test_rows_are_bounded() -> None:
    learner, engine = trained()
    with torch.no_grad():
        learner.tables.weights["items"][3, 0] = 1_001
    assert checked(learner, engine) == "finite"


@pytest.mark.parametrize("count", [-0.01, 1.01, float("nan")])
def test_counts_are_shares(count: float) -> None:
    learner, engine = trained()
    for value, breach in ((count, "finite"), (0.1, "finite"), (0.2, None), (1.0, None)):
        rows = {STATISTICS: torch.tensor([[0.5, 0.1], [value, 0.2]])}
        found = check_weights(CONFIG, learner.dense, rows, engine.image)
        assert (found and found.test) == breach


def test_held_out_responses_are_the_same_everywhere_and_as_many_as_asked_for() -> None:
    ids = [f"response-{i}" for i in range(20_000)]
    kept = [held_out(i, 0.02) for i in ids]
    assert 300 < sum(kept) < 500
    assert kept == [held_out(i, 0.02) for i in ids]
    assert not any(held_out(i, 0.0) for i in ids[:100])


def test_the_window_measures_what_replicas_hold() -> None:
    learner, engine = trained()
    window = HeldOutWindow(engine, 2)
    assert window.loss("light") == 0
    probes = [
        labelled(i, request("u1", ["i1", "i2"], log=["i3"]), [1, 0], [0, np.nan], tier=tier)
        for i, tier in enumerate(("light", "heavy", "light", "gone"))
    ]
    assert window.add([probes[1]]) == {"heavy"}
    assert window.add([probes[0], *probes[2:]]) == {"light"}  # what is gone counts as the cheapest
    assert (window.count("light"), window.count("heavy")) == (2, 1)
    for tier, held in (("heavy", probes[1:2]), ("light", probes[2:])):
        expected = 0.0
        for probe in held:
            scores = engine.score(tier, [probe.request])[0]
            pctr, pcvr = scores.pctr.astype(np.float64), scores.pcvr.astype(np.float64)
            expected -= np.log(pctr[0]) + np.log1p(-pctr[1]) + np.log1p(-pcvr[0])
        assert window.loss(tier) == pytest.approx(expected, rel=1e-5)
    before = window.loss("heavy")
    for number, _ in enumerate(range(20), 6):
        learner.learn([dataclasses.replace(probes[1], response_id=f"again-{number}")])
        engine.apply(update_of(learner, number), at(number))
    assert window.loss("heavy") < before


@pytest.mark.parametrize(
    "wrong", [{"held_out": 1.0}, {"max_change": 0.0}, {"worse_tolerance": -1.0}, {"labels_between_false_alarms": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        GateConfig(**wrong)  # type: ignore[arg-type]


def test_the_reference_predicts_beside_what_was_served() -> None:
    learner = tiny_learner(tiny_model(), dearer_share=0.0)
    for examples in traffic(0, 5):
        learner.learn(examples)
    learner.reference = learner.copy()
    probe = labelled(0, request("u1", ["i1", "i2"], log=["i3"]), [1, np.nan], [np.nan, 0])
    first = learner.compare([probe])
    learner.learn([probe])
    assert first["click"].label_n.tolist() == [1]
    assert first["conversion"].label_n.tolist() == [0]
    assert first["click"].shown_ms_n.tolist() == [probe.request.event_ms]
    assert first["click"].served_n == pytest.approx(probe.pctr_N[:1])
    assert learner.compare([probe])["click"].reference_n.tolist() == first["click"].reference_n.tolist()
