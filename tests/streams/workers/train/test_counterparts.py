"""Clicks come at once, and what was not clicked a window later: what a trainer learns where traffic begins."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.delayed.policies import POLICIES, PolicyName
from streams.kafka.connection import Kafka
from streams.kafka.outbox import Outbox
from streams.local.stack import LocalStack, local_stack
from streams.wire.codec import encode
from streams.wire.headers import CLOSED_MS
from streams.wire.messages import TrainingExample
from streams.wire.record import Record
from streams.wire.topics import EXAMPLES, TOPICS
from streams.workers.train.counterparts import MEMORY_MS, SURPRISE_NATS, Counterparts
from tests.ranker.samples import tiny_model
from tests.streams.samples import example
from tests.streams.workers.train.training import new_trainer

NOW_MS = int(1000 * time.time())


def labelled(number: int, label: float, *, kind: str = "click") -> TrainingExample:
    """Predicted at 0.1."""
    return example(
        kind,
        example_id=f"{kind}:{number}",
        label=label,
        response_id=f"r{number}",
        event_ms=NOW_MS,
        label_ms=NOW_MS,
        shown_ms=NOW_MS,
        pcvr=0.1,
        by_window=label == 0,
    )


def step(positives: int, negatives: int = 0, *, kind: str = "click") -> list[TrainingExample]:
    labels = [1.0] * positives + [0.0] * negatives
    return [labelled(n, label, kind=kind) for n, label in enumerate(labels)]


def kept(pairs: Counterparts, examples: Sequence[TrainingExample], read_ms: int) -> int:
    learned, alone = pairs.split(examples, read_ms)
    assert len(learned) + len(alone) == len(examples)
    return len(learned)


def counterparts(*, resumed: bool = False, clicks: PolicyName = "wait") -> Counterparts:
    return Counterparts({"click": POLICIES[clicks], "conversion": POLICIES["wait"]}, resumed=resumed)


def test_where_traffic_begins_clicks_are_not_learned_until_windows_close() -> None:
    pairs = counterparts()
    assert kept(pairs, step(1), NOW_MS) == 0
    assert kept(pairs, step(100), NOW_MS + 600_000) == 0
    assert kept(pairs, step(100, 900), NOW_MS + 600_100) == 1_000


def test_where_traffic_begins_again_clicks_are_alone_again() -> None:
    pairs = counterparts()
    assert kept(pairs, step(100, 900), NOW_MS) == 1_000
    assert kept(pairs, step(500), NOW_MS + MEMORY_MS) == 500  # between two sweeps
    assert kept(pairs, step(500), NOW_MS + MEMORY_MS + 1) == 0
    assert kept(pairs, step(500), NOW_MS + 600_000) == 0
    assert kept(pairs, step(100, 900), NOW_MS + 600_100) == 1_000


def test_where_traffic_ends_what_was_not_clicked_is_alone() -> None:
    pairs = counterparts()
    assert kept(pairs, step(0, 900), NOW_MS) == 0
    assert kept(pairs, step(1, 9), NOW_MS) == 10
    after = NOW_MS + MEMORY_MS + 1
    alone = int(SURPRISE_NATS / -math.log(1 - 0.1))
    assert sum(kept(pairs, step(0, 10), after + n) for n in range(90)) == alone
    assert kept(pairs, step(1, 10), after + 100) == 11


def test_a_trainer_that_resumes_takes_the_other_side_for_granted_for_a_second() -> None:
    """Not for longer: it may be restarted again and again where traffic begins."""
    pairs = counterparts(resumed=True)
    assert kept(pairs, step(5_000), NOW_MS) == 5_000
    assert kept(pairs, step(5_000), NOW_MS + MEMORY_MS) == 5_000
    assert kept(pairs, step(5_000), NOW_MS + MEMORY_MS + 1) == 0
    assert kept(pairs, step(500, 4_500), NOW_MS + 30_000) == 5_000
    assert kept(pairs, step(500), NOW_MS + 30_000 + MEMORY_MS) == 500


def test_a_few_of_one_side_after_many_of_both_are_no_surprise() -> None:
    pairs = counterparts()
    assert kept(pairs, step(1, 200), NOW_MS) == 201
    assert kept(pairs, step(0, 5), NOW_MS + MEMORY_MS + 1) == 5


def corrected(positives: int = 0, provisional: int = 0, closed: int = 0) -> list[TrainingExample]:
    said = [msgspec.structs.replace(e, provisional=True) for e in step(0, provisional)]
    return step(positives) + said + step(0, closed)


def test_final_negatives_that_teach_nothing_accompany_nothing() -> None:
    """Where traffic ends, late clicks and the ends of windows go on for a whole window."""
    pairs = counterparts(clicks="es_dfm")
    assert kept(pairs, corrected(100, 900), NOW_MS) == 1_000
    after = NOW_MS + MEMORY_MS + 1
    assert kept(pairs, corrected(100, 0, 900), after) == 900 + int(SURPRISE_NATS / -math.log(0.1))
    assert kept(pairs, corrected(0, 0, 900), after) == 900, "they are there to be graded"
    assert kept(pairs, corrected(100, 900, 900), after + 1) == 1_900


def test_each_kind_has_its_own_counterparts() -> None:
    pairs = counterparts()
    assert kept(pairs, step(100, 900) + step(100, kind="conversion"), NOW_MS) == 1_000
    assert kept(pairs, step(10, 90, kind="conversion"), NOW_MS) == 100


@pytest.mark.parametrize("p", [0.01, 0.1, 0.6])
def test_where_labels_are_rare_their_order_is_a_matter_of_chance(p: float) -> None:
    """A label every ten seconds: nearly always the last of the other side is older than what is remembered."""
    rng, pairs, learned = np.random.default_rng(1), counterparts(resumed=True), 0
    for number in range(5_000):
        label = float(rng.random() < p)
        one = msgspec.structs.replace(labelled(number, label), pctr=p)
        learned += kept(pairs, [one], NOW_MS + number * 10_000)
    assert learned >= 4_995


@settings(deadline=None, max_examples=30)
@given(rate=st.integers(1, 2_000), share=st.floats(0, 0.9), sweep_ms=st.integers(50, 900), step_ms=st.integers(50, 500))
def test_in_steady_traffic_all_is_learned(rate: int, share: float, sweep_ms: int, step_ms: int) -> None:
    """rate: impressions a second; share: of clicks, and predicted; windows close every sweep_ms."""
    pairs, rng, due, swept = counterparts(resumed=True), np.random.default_rng(rate), 0, 0
    for at in range(step_ms, 5_000, step_ms):
        due, swept = at // sweep_ms * sweep_ms, due
        positives = rng.poisson(rate * share * step_ms / 1000)
        negatives = rng.poisson(rate * (1 - share) * (due - swept) / 1000)
        examples = [msgspec.structs.replace(e, pctr=share) for e in step(positives, negatives)]
        assert kept(pairs, examples, NOW_MS + due) == len(examples)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("stack"), broker="memory") as stack:
        Kafka(stack.bootstrap, {}).create_topics()
        yield stack


@pytest.mark.e2e
def test_a_trainer_does_not_learn_that_everything_is_clicked(stack: LocalStack, tmp_path: Path) -> None:
    kafka = Kafka(stack.bootstrap, {})
    outbox = Outbox(kafka.producer())
    worker, learner, schedule = new_trainer(tiny_model(), stack, kafka, outbox, tmp_path)
    read = iter(range(10_000))

    def learn(examples: Sequence[TrainingExample]) -> None:
        topic, closed = TOPICS[EXAMPLES], ((CLOSED_MS, str(NOW_MS).encode()),)
        worker.handle([Record(EXAMPLES, 0, next(read), NOW_MS, b"u", encode(topic, e), closed) for e in examples])
        worker.tick()

    def not_clicked(number: int, provisional: bool) -> TrainingExample:
        return msgspec.structs.replace(
            labelled(number, 0.0), example_id=f"{provisional}:{number}", provisional=provisional
        )

    with schedule:
        for first in range(0, 400, 40):
            learn([labelled(n, 1.0) for n in range(first, first + 40)])
        assert (learner.step, learner.click_rate.count) == (0, 0)
        assert worker._offsets == {"0": 400}, "they are read, and their offsets travel"
        learn([labelled(n, 1.0) if n % 10 == 0 else not_clicked(n, provisional=False) for n in range(400, 800)])
        assert learner.step == 0, "the end of a window is graded, and teaches nothing"
        assert 300 < learner.click_rate.count <= 360
        learn([labelled(n, 1.0) if n % 10 == 0 else not_clicked(n, provisional=True) for n in range(800, 1_200)])
        assert learner.step == 1
