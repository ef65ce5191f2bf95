"""The consumer loop, with a scripted consumer: the order of steps, and what a failure leaves uncommitted."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.kafka import loop
from streams.kafka.loop import BaseWorker, Pace, ReadAgain, fatal_error, run
from streams.wire.record import Record, next_offsets


class ScriptedMessage:
    def __init__(self, topic: str, partition: int, offset: int, error: KafkaError | None = None) -> None:
        self._place, self._error = (topic, partition, offset), error

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._place[2]

    def error(self) -> KafkaError | None:
        return self._error

    def timestamp(self) -> tuple[int, int]:
        return (1, 5)

    def key(self) -> None:
        return None

    def value(self) -> bytes:
        return b"v"

    def headers(self) -> None:
        return None


def message(offset: int, partition: int = 0) -> ScriptedMessage:
    return ScriptedMessage("t", partition, offset)


def end(partition: int = 0, offset: int = 5) -> ScriptedMessage:
    return ScriptedMessage("t", partition, offset, KafkaError(KafkaError._PARTITION_EOF))


class ScriptedConsumer:
    """Hands out batches, then asks the loop to stop."""

    def __init__(self, batches: Sequence[Sequence[ScriptedMessage]], stop: threading.Event) -> None:
        self._batches = [list(batch) for batch in batches]
        self._stop = stop
        self.steps: list[str] = []
        self.waits: set[float] = set()
        self.kept = 0

    def subscribe(self, topics: list[str], **_: Any) -> None:
        self.steps.append(f"subscribe {topics}")

    def poll(self, timeout: float) -> ScriptedMessage | None:
        self.waits.add(timeout)
        if not self._batches:
            self._stop.set()
            return None
        if not self._batches[0]:
            self._batches.pop(0)
            return None
        return self._batches[0].pop(0)

    def consume(self, count: int, timeout: float) -> list[ScriptedMessage]:
        batch = self._batches.pop(0)
        return batch[:count]

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        return self.kept, 1_000

    def seek(self, place: TopicPartition) -> None:
        self.steps.append(f"seek {place.partition} {place.offset}")

    def close(self) -> None:
        self.steps.append("close")


class ScriptedOutbox:
    def __init__(self, steps: list[str]) -> None:
        self._steps = steps

    def seal(self, offsets: dict[tuple[str, int], int]) -> None:
        self._steps.append(f"seal {sorted(offsets.values())}")

    def discard(self) -> None:
        self._steps.append("discard")

    def commit(self, consumer: Any) -> None:
        return

    def drain(self, consumer: Any, timeout_s: float) -> bool:
        self._steps.append("drain")
        return True


class Recorder(BaseWorker):
    def __init__(self, steps: list[str], outbox: Any) -> None:
        self._steps, self._outbox = steps, outbox
        self.fail: Exception | None = None

    def handle(self, records: Sequence[Record]) -> None:
        self._steps.append(f"handle {[record.offset for record in records]}")
        if self.fail is not None:
            failure, self.fail = self.fail, None
            raise failure
        self._outbox.seal(next_offsets(records))

    def at_end(self, topic: str, partition: int, offset: int) -> None:
        self._steps.append(f"end {partition} at {offset}")


def play(*batches: Sequence[ScriptedMessage], fail: Exception | None = None) -> list[str]:
    stop = threading.Event()
    consumer: Any = ScriptedConsumer(batches, stop)
    outbox: Any = ScriptedOutbox(consumer.steps)
    worker = Recorder(consumer.steps, outbox)
    worker.fail = fail
    try:
        run(consumer, ["t"], worker, outbox, Pace(batch_max=10, idle_s=0.0), stop=stop)
    finally:
        steps: list[str] = consumer.steps
        play.steps = steps  # type: ignore[attr-defined]
    return steps


def test_a_batch_is_drained_handled_and_sealed() -> None:
    steps = play([message(4), message(5), message(9, 1)])
    assert steps == ["subscribe ['t']", "handle [4, 5, 9]", "seal [6, 10]", "drain", "close"]


def test_an_end_counts_after_the_records_before_it() -> None:
    steps = play([message(4), end(0)])
    assert steps[1:4] == ["handle [4]", "seal [5]", "end 0 at 5"]


def test_an_end_with_records_behind_it_is_none() -> None:
    assert "end 0 at 5" not in play([end(0), message(5)])


def test_read_again_seeks_and_commits_nothing_of_the_batch() -> None:
    steps = play([message(4)], [message(2)], fail=ReadAgain({("t", 0): 2}))
    assert steps[1:6] == ["handle [4]", "discard", "seek 0 2", "handle [2]", "seal [3]"]


def test_an_exception_ends_the_loop_unsealed() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        play([message(4)], fail=RuntimeError("broken"))
    assert play.steps == ["subscribe ['t']", "handle [4]", "close"]  # type: ignore[attr-defined]


class Ticked(Recorder):
    def tick(self) -> None:
        self._steps.append("tick")


@pytest.mark.parametrize("rests", [True, False])
def test_at_rest_it_waits_longer_and_ticks_before_the_first_record(
    rests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REST_AFTER_S", -1.0 if rests else 60.0)
    stop = threading.Event()
    consumer: Any = ScriptedConsumer([[message(4)]], stop)
    outbox: Any = ScriptedOutbox(consumer.steps)
    pace = Pace(batch_max=10, idle_s=0.0, rest_s=0.01)
    run(consumer, ["t"], Ticked(consumer.steps, outbox), outbox, pace, stop=stop)
    assert consumer.steps[1 : consumer.steps.index("handle [4]")] == (["tick"] if rests else [])
    assert consumer.waits == {0.01 if rests else 0.0}


def test_passing_errors_are_passed_over_and_fatal_ones_raised() -> None:
    passing = ScriptedMessage("t", 0, 0, KafkaError(KafkaError._TRANSPORT))
    assert "handle [4]" in play([passing, message(4)])
    # The second is how the client hands out the first: as an event whose own flag is not set.
    for error in (KafkaError(KafkaError._FENCED, "fenced", fatal=True), KafkaError(KafkaError._FATAL, "fenced")):
        with pytest.raises(KafkaException):
            play([ScriptedMessage("t", 0, 0, error)])


def test_a_name_taken_by_another_process_is_said_in_plain_words() -> None:
    fenced = KafkaError(
        KafkaError._FATAL, "Fatal error: fenced by other consumer with same group.instance.id", fatal=True
    )
    assert "--instance" in str(fatal_error(fenced))
    other = KafkaError(KafkaError._FATAL, "Fatal error: Local: Inconsistent state", fatal=True)
    assert isinstance(fatal_error(other), KafkaException)
