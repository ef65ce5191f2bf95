"""What a trainer makes of the times of what it reads: how far it is behind, and up to when all labels are there."""

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from streams.config.recipe import JOIN_HOLD_S as PATIENCE_S
from streams.config.recipe import TrainingConfig
from streams.runtime.laps import Laps
from streams.wire.codec import decode, encode
from streams.wire.headers import CLOSED_MS
from streams.wire.record import Record
from streams.wire.topics import EXAMPLES, TOPICS
from streams.workers.train.join_hold import AHEAD_MS, JoinHold
from streams.workers.train.worker import TrainWorker
from tests.streams.samples import example


def record(offset: int, age_s: float) -> Record:
    now_ms = int(1000 * (time.time() - age_s))
    of = example(example_id=f"click:{offset}", response_id=f"r{offset}", event_ms=now_ms, label_ms=now_ms)
    return Record(EXAMPLES, 0, offset, now_ms, b"u", encode(TOPICS[EXAMPLES], of), ())


def worker(config: TrainingConfig) -> TrainWorker:
    """For `handle` alone."""
    parts: dict[str, Any] = {"gate": SimpleNamespace(closed=False)} | dict.fromkeys(
        ("learner", "writer", "user_log", "schedule", "counterparts", "outbox", "stop", "heartbeat")
    )
    parts |= {"laps": Laps(), "join_hold": JoinHold(live=True)}
    return TrainWorker(**parts, offsets={}, log_length=4, config=config, snapshots="")


@pytest.mark.parametrize(
    ("said", "reached_ms"),
    [
        (lambda at: str(at - 700), -700),
        (lambda at: str(at + 300), 0),  # no further than the broker's own clock, of another leader perhaps
        (lambda at: "0", None),
        (lambda at: "soon", 0),
        (lambda at: "9" * 400, 0),
    ],
)
def test_its_clock_is_what_the_join_has_closed(said: Callable[[int], str], reached_ms: int | None) -> None:
    trainer, of = worker(TrainingConfig()), record(0, 5)
    trainer.handle([replace(of, headers=((CLOSED_MS, said(of.timestamp_ms).encode()),))])
    assert trainer._closed.now_ms() == (0 if reached_ms is None else of.timestamp_ms + reached_ms)


def skipped() -> float:
    return REGISTRY.get_sample_value("tiderank_examples_skipped_total", {"reason": "behind"}) or 0.0


def test_what_is_too_old_is_counted_and_the_newest_is_kept() -> None:
    before, trainer = skipped(), worker(TrainingConfig(behind_max_s=600))
    trainer.handle([record(0, 7_000), record(1, 601), record(2, 590), record(3, 30)])
    assert [example.example_id for example in trainer._waiting] == ["click:2", "click:3"]
    assert trainer._waiting_offsets == {(EXAMPLES, 0): 4}, "what is skipped is read"
    assert skipped() == before + 2
    behind_s = REGISTRY.get_sample_value("tiderank_training_behind_seconds")
    assert behind_s is not None
    assert 29 < behind_s < 60


def test_clicks_wait_for_what_was_not_clicked_while_the_join_holds_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, hold = [100.0], JoinHold(live=True)
    monkeypatch.setattr("streams.workers.train.join_hold.time.monotonic", lambda: now_s[0])

    def click(at_ms: int, sent_ms: int) -> None:
        hold.read(example(label=1.0, shown_ms=at_ms, label_ms=at_ms, pctr=0.5), bound_ms=10**6, sent_ms=sent_ms)

    click(50_000, 50_000 - AHEAD_MS)
    assert not hold.holds(50_000 - AHEAD_MS)
    click(60_000, 50_000)
    assert hold.holds(50_000)
    now_s[0] += PATIENCE_S - 1
    click(80_000, 50_000)
    assert hold.holds(50_000)
    assert not hold.holds(79_000)  # it has caught up
    assert hold.holds(50_000)
    now_s[0] += PATIENCE_S + 1
    assert not hold.holds(50_000)  # not for ever
    now_s[0] += 1_000
    assert not hold.holds(50_000)
    assert not hold.holds(80_000)
    click(90_000, 80_000)
    assert hold.holds(80_000)  # once it has caught up, again
    replayed = JoinHold(live=False)
    replayed.read(example(label=1.0, shown_ms=60_000), bound_ms=60_000, sent_ms=0)
    assert not replayed.holds(0)


@pytest.mark.parametrize(
    ("goes", "closing", "waits_on"),
    [(0.0, False, True), (0.2, False, True), (0.8, False, False), (1.0, False, False), (0.0, True, False)],
)
def test_while_the_joins_clock_stands_still_they_wait_on(
    monkeypatch: pytest.MonkeyPatch, goes: float, closing: bool, waits_on: bool
) -> None:
    """It goes this much for each second that passes: a worker that dies again and again, or one that is slow. Or
    windows close, but workers of two versions do not agree on a clock."""
    now_s, hold = [100.0], JoinHold(live=True)
    monkeypatch.setattr("streams.workers.train.join_hold.time.monotonic", lambda: now_s[0])
    held = []
    for second in range(300):
        now_s[0] += 1
        clock_ms = 500_000 + int(1_000 * goes * second)
        at_ms = 510_000 + 1_000 * second
        hold.read(example(label=1.0, shown_ms=at_ms, label_ms=at_ms, pctr=0.5), bound_ms=10**7, sent_ms=clock_ms)
        if closing:
            hold.read(example(label=0.0, by_window=True), bound_ms=10**7, sent_ms=clock_ms)
        held.append(hold.holds(clock_ms))
    assert all(held[: int(PATIENCE_S)])
    assert set(held[int(PATIENCE_S) + 1 :]) == {waits_on}


def test_a_trainer_that_has_much_to_read_does_not_take_that_for_the_joins_fault() -> None:
    """The newest partition that was read is far ahead of the oldest; each record's own time was well."""
    hold = JoinHold(live=True)
    for at_ms in range(50_000, 200_000, 1_000):
        hold.read(example(label=1.0, shown_ms=at_ms, label_ms=at_ms, pctr=0.9), bound_ms=10**6, sent_ms=at_ms - 500)
        hold.read(example(label=0.0, shown_ms=at_ms - 2_000, pctr=0.1, by_window=True), bound_ms=10**6, sent_ms=at_ms)
        assert not hold.holds(40_000)


def test_some_unlikely_clicks_in_a_row_wait_at_once() -> None:
    hold = JoinHold(live=True)

    def holds(label: float, pctr: float = 0.1) -> bool:
        hold.read(
            example(label=label, label_ms=50_000, pctr=pctr, by_window=label == 0), bound_ms=10**6, sent_ms=49_900
        )
        return hold.holds(49_900)

    assert [holds(1.0) for _ in range(4)] == [False, False, False, True]
    assert not hold.holds(50_000), "the join has passed them: nothing else is to come"
    assert not holds(0.0)
    assert [holds(1.0, 0.6) for _ in range(15)] == [False] * 13 + [True] * 2


def test_what_waits_for_the_join_is_bounded() -> None:
    trainer = worker(TrainingConfig(batch_max=1))
    clicked = replace(record(0, 5), headers=((CLOSED_MS, b"1"),))
    of = decode(TOPICS[EXAMPLES], clicked.value)
    value = encode(TOPICS[EXAMPLES], msgspec.structs.replace(of, label=1.0, shown_ms=clicked.timestamp_ms))
    for offset in range(20):
        trainer.handle([replace(clicked, offset=offset, value=value)])
        assert trainer._one_sided() == (offset < 15)
