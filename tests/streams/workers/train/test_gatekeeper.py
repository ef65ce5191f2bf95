"""When the gate closes and opens, on a small model and without a broker."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ranker.config import CROSSES, GateConfig, LearnerConfig
from ranker.engine import Engine
from ranker.gate.checks import Breach
from ranker.inputs.requests import LabelledRequest
from ranker.learning.learner import Learner
from ranker.learning.model_copy import ModelCopy
from ranker.updates.image import dense_tensors
from streams.workers.train.gatekeeper import Gatekeeper
from tests.ranker.samples import COMPRESS, EVENT_MS, at, labelled, request, tiny_model, traffic, update_of

Examples = list[LabelledRequest]
WINDOWS_MS = {"click": 100, "conversion": 200}
CONFIG = GateConfig(held_out=0.0, held_out_window=4, reopen_labels=30, reference_labels=60)


def gatekeeper(batches: int) -> tuple[Gatekeeper, Learner, Engine]:
    """Its reference has learned so many batches of 6 click labels: by heart, so that lies are unlike what it says."""
    learner = Learner(tiny_model(), LearnerConfig(past_pages=0, row_rate=1.0), COMPRESS)
    engine = Engine(learner.config, COMPRESS)
    for examples in traffic(0, batches):
        learner.learn(examples)
    for tier in learner.tiers.values():
        tier.calibration.copy_(tier.platt)  # and is trusted, as after some hundred labels
    engine.apply(update_of(learner, 1), at(1))
    gate = Gatekeeper(CONFIG, learner, engine, WINDOWS_MS)
    gate.start_at(at(1))
    return gate, learner, engine


def expected(engine: Engine, examples: list[LabelledRequest], event_ms: int, rng: np.random.Generator) -> Examples:
    """The same, later, with labels as the engine predicts them."""
    found = []
    for e in examples:
        pctr_N = engine.score(e.tier, [e.request])[0].pctr
        found.append(
            dataclasses.replace(
                e,
                request=dataclasses.replace(e.request, event_ms=event_ms),
                pctr_N=pctr_N,
                click_N=(rng.random(len(pctr_N)) < pctr_N).astype(np.float32),
                conversion_N=np.full(len(pctr_N), np.nan, np.float32),
            )
        )
    return found


def steps_until_open(gate: Gatekeeper, engine: Engine, most: int) -> int:
    """Steps of 6 labels; the clock is a second ahead of them."""
    rng = np.random.default_rng(3)
    for number, examples in enumerate(traffic(1, most), 1):
        now_ms = EVENT_MS + 1_000 * number
        assert gate.judge_labels(expected(engine, examples, now_ms, rng), now_ms + 1_000) is None
        if not gate.closed:
            return number
    raise AssertionError(f"still closed after {most} steps")


@pytest.mark.parametrize("batches", [3, 40])
def test_it_opens_once_enough_labels_have_come_whether_or_not_the_reference_can_judge_them(batches: int) -> None:
    gate, learner, engine = gatekeeper(batches)
    assert (learner.click_rate.count > CONFIG.reference_labels) == (batches == 40)
    gate.close(Breach("held_out", "as a test has it"), EVENT_MS)
    assert gate.closed
    assert steps_until_open(gate, engine, 40) >= CONFIG.reopen_labels // 6 - 1


def test_labels_of_before_it_closed_do_not_open_it() -> None:
    gate, _, engine = gatekeeper(40)
    gate.close(Breach("strange", "as a test has it"), EVENT_MS + 100_000)
    with pytest.raises(AssertionError, match="still closed"):
        steps_until_open(gate, engine, 40)


@pytest.mark.parametrize("batches", [11, 10])
def test_held_out_responses_of_each_tier_take_turns_to_judge_updates(batches: int) -> None:
    """Only for a model that has learned enough, which one of 10 batches has not."""
    _, learner, engine = gatekeeper(batches)
    config = dataclasses.replace(CONFIG, held_out=0.999, max_change=100.0)
    holding = Gatekeeper(config, learner, engine, WINDOWS_MS)
    assert holding.split([e for examples in traffic(2, 12) for e in examples]) == []
    assert holding.judge_weights() is None
    with torch.no_grad():  # in the heavy tier alone, and as no update would
        for name, tensor in engine.image.dense.items():
            if name.startswith("heavy/heads"):
                tensor.mul_(-3)
    assert holding.judge_update() is None
    assert holding.judge_weights() is None
    with torch.no_grad():
        for name, tensor in engine.image.dense.items():
            if name.startswith("heavy/heads"):
                tensor.mul_(5)
    breach = holding.judge_update()
    if batches == 10:
        assert breach is None
        return
    assert breach is not None
    assert breach.test == "held_out"
    assert "of heavy" in breach.reason


def test_the_reference_stays_what_it_was_at_its_snapshot_while_copies_reuse_each_others_memory() -> None:
    gate, learner, _ = gatekeeper(2)
    references, then = [], []
    for number, examples in enumerate(traffic(1, 6), 2):
        learner.learn(examples)
        then.append(learner.copy())
        gate.snapshot_begun(at(number), 10_000 * number)
        if number == 4:
            continue  # not written: the next one takes its place
        gate.snapshot_written()
        assert learner.reference is not None
        references.append(learner.reference)
        expected = {2: None, 3: 0, 5: 1, 6: 3, 7: 4}[number]
        if expected is not None:
            assert gate.reference_at == at(expected + 2)
            same_model(learner.reference, then[expected])


def test_where_few_are_clicked_a_click_more_or_less_is_no_breach() -> None:
    """Labels are honest, at a rate of 3 in 1,000; updates are judged after each step."""
    learner, engine = Learner(tiny_model(), LearnerConfig(), COMPRESS), Engine(tiny_model(), COMPRESS)
    gate = Gatekeeper(GateConfig(held_out=0.05), learner, engine, WINDOWS_MS)
    rng, items = np.random.default_rng(1), [f"i{k}" for k in range(40)]
    for step in range(1, 200):
        shown = [list(rng.choice(items, 4, replace=False)) for _ in range(60)]
        examples = [
            labelled(
                60 * step + k,
                request(f"u{rng.integers(200)}", some),
                [float(rng.random() < 0.003) for _ in some],
                tier=("light", "heavy")[k % 2],
            )
            for k, some in enumerate(shown)
        ]
        learner.learn(gate.split(examples))
        assert gate.judge_weights() is None
        engine.apply(update_of(learner, step), at(step))
        assert gate.judge_update() is None


def test_the_next_reference_is_as_old_as_the_labels_that_it_will_judge() -> None:
    _, learner, engine = gatekeeper(2)
    gate = Gatekeeper(CONFIG, learner, engine, {"click": 600_000, "conversion": 86_400_000})
    gate.start_at(at(1))
    for number in range(2, 30):  # every 30 s
        gate.snapshot_begun(at(number), 30_000 * number)
        gate.snapshot_written()
        assert gate.reference_at == at(1 if number < 23 else 2)  # which is then 630 s old
        assert gate.needed == ({at(1), at(2)} if number < 23 else {at(1), at(2), at(23)})


def test_a_trainer_that_restarts_while_it_is_closed_keeps_it_so_and_judges_what_the_old_epoch_served() -> None:
    """Its snapshot is that of the rollback: newer than what served the labels that were kept out."""
    gate, _, engine = gatekeeper(40)
    gate.start_at(at(1, epoch=2), closed=True)
    rng = np.random.default_rng(3)
    for number, examples in enumerate(traffic(1, 60), 1):  # what is likely is not clicked, and what is unlikely is
        now_ms = EVENT_MS + 1_000 * number
        lies = [
            dataclasses.replace(e, click_N=(e.pctr_N < 0.5).astype(np.float32), served_by=(1, 50))
            for e in expected(engine, examples, now_ms, rng)
        ]
        assert gate.judge_labels(lies, now_ms + 1_000) is None
    assert gate.closed
    gate, _, engine = gatekeeper(40)
    gate.start_at(at(1, epoch=2), closed=True)
    assert steps_until_open(gate, engine, 40) >= CONFIG.reopen_labels // 6 - 1


def test_a_reference_taken_at_a_bad_moment_gives_way_to_the_one_before_it() -> None:
    """While the trainer saw what was not clicked alone, say: for seconds, and a snapshot was due."""
    gate, learner, engine = gatekeeper(40)
    with_a_bad_reference(gate, learner)
    assert (gate.reference_at, gate.oldest) == (at(2), at(1))
    steps_until(gate, engine, np.random.default_rng(3), 60, lambda n: EVENT_MS + 1_000 * n)
    assert not gate.closed
    assert (gate.reference_at, gate.oldest) == (at(1), at(1))
    assert gate.needed == {at(1), at(3)}


def with_a_bad_reference(gate: Gatekeeper, learner: Learner) -> None:
    for number, moved in ((2, -3.0), (3, 3.0)):
        with torch.no_grad():
            for tier in learner.tiers.values():
                tier.heads.out_bias[0] += moved
        gate.snapshot_begun(at(number), EVENT_MS + 10_000 * number)
        gate.snapshot_written()


def test_labels_of_before_a_reference_was_one_are_not_held_against_it() -> None:
    """Some were compared with the one before it: it is not known which of them is wrong."""
    gate, learner, engine = gatekeeper(40)
    rng = np.random.default_rng(3)
    assert steps_until(gate, engine, rng, 8, lambda n: EVENT_MS + 1_000 * n) == 8
    with_a_bad_reference(gate, learner)
    steps_until(gate, engine, rng, 60, lambda n: EVENT_MS + 9_000 + 10 * n)
    assert (gate.reference_at, gate.oldest, gate.closed) == (at(2), at(1), False)
    steps_until(gate, engine, rng, 60, lambda n: EVENT_MS + 60_000 + 1_000 * n)
    assert (gate.reference_at, gate.oldest, gate.closed) == (at(1), at(1), False)


def steps_until(
    gate: Gatekeeper, engine: Engine, rng: np.random.Generator, most: int, shown_ms: Callable[[int], int]
) -> int:
    """Steps without a breach, of labels as they are expected; how many."""
    for number, examples in enumerate(traffic(1, most), 1):
        at_ms = shown_ms(number)
        assert gate.judge_labels(expected(engine, examples, at_ms, rng), at_ms + 1_000) is None
    return number


def test_a_model_that_knows_too_little_is_nobodys_elder() -> None:
    gate, learner, _ = gatekeeper(3)
    for number, examples in enumerate(traffic(1, 40), 2):
        learner.learn(examples)
        if number in (20, 30, 40):
            gate.snapshot_begun(at(number), 10_000 * number)
            gate.snapshot_written()
    assert (gate.reference_at, gate.oldest) == (at(30), at(20))
    gate, learner, _ = gatekeeper(3)
    for number, examples in enumerate(traffic(1, 40), 2):
        learner.learn(examples)
        if number in (30, 40):
            gate.snapshot_begun(at(number), 10_000 * number)
            gate.snapshot_written()
    assert (gate.reference_at, gate.oldest) == (at(30), at(30))


def test_what_an_older_model_served_is_not_held_against_a_newer_reference() -> None:
    """A replica was halted, say: it serves on with what it has, and the reference has learned since."""
    breaches = []
    for served_by in ((1, 0), (1, 1)):
        gate, _, engine = gatekeeper(40)
        rng, breach = np.random.default_rng(3), None
        for number, examples in enumerate(traffic(1, 60), 1):
            now_ms = EVENT_MS + 1_000 * number
            asked = [
                dataclasses.replace(e, pctr_N=np.full_like(e.pctr_N, 0.999), served_by=served_by)
                for e in expected(engine, examples, now_ms, rng)
            ]
            breach = breach or gate.judge_labels(asked, now_ms + 1_000)
        breaches.append(breach.test if breach is not None else None)
    assert breaches == [None, "worse"]


def same_model(one: ModelCopy, other: ModelCopy) -> None:
    dense, others = dense_tensors(one.tiers), dense_tensors(other.tiers)
    assert all(torch.equal(dense[name], others[name]) for name in others)
    for name, weights in other.tables.weights.items():
        assert torch.equal(one.tables.weights[name], weights)
        keys, rows = other.tables.key_maps[name].items()
        assert np.array_equal(one.tables.key_maps[name].find(keys), rows)
        assert len(one.tables.key_maps[name]) == len(keys)
        assert len(keys) or name == CROSSES
