"""A trainer that restarts while the gate is closed: what it says of the examples that it keeps out of training."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ranker.snapshots.snapshot import list_snapshots
from ranker.updates.record import UpdateHeader, peek_header
from streams.kafka.connection import Kafka
from streams.kafka.outbox import Outbox
from streams.kafka.scan import read_topic
from streams.local.stack import LocalStack, local_stack
from streams.wire.codec import encode
from streams.wire.headers import CLOSED_MS
from streams.wire.record import Record
from streams.wire.topics import EXAMPLES, TOPICS, UPDATES
from tests.ranker.samples import tiny_model
from tests.streams.samples import example
from tests.streams.workers.train.training import new_trainer

NOW_MS = int(1000 * time.time())
MODEL = tiny_model()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("stack"), broker="memory") as stack:
        Kafka(stack.bootstrap, {}).create_topics()
        yield stack


def examples_at(offset: int, count: int) -> list[Record]:
    """Every other one a click, the others not clicked after the elapsed time."""
    said = ((CLOSED_MS, str(NOW_MS).encode()),)
    records = []
    for n in range(offset, offset + count):
        made = example("click", example_id=f"click:{n}", label=float(n % 2), response_id=f"r{n}", event_ms=NOW_MS,
                       label_ms=NOW_MS, shown_ms=NOW_MS, by_window=n % 2 == 0)  # fmt: skip
        if n % 2 == 0:
            made = msgspec.structs.replace(made, provisional=True)
        records.append(Record(EXAMPLES, 0, n, NOW_MS, b"u", encode(TOPICS[EXAMPLES], made), said))
    return records


def updates(kafka: Kafka) -> list[UpdateHeader]:
    headers = [peek_header(record.value or b"") for record in read_topic(kafka, UPDATES)]
    return [header for header in headers if isinstance(header, UpdateHeader)]


@pytest.mark.e2e
def test_its_first_update_tells_of_them_and_a_snapshot_of_the_open_gate_follows_at_once(
    stack: LocalStack, tmp_path: Path
) -> None:
    kafka = Kafka(stack.bootstrap, {})
    outbox = Outbox(kafka.producer())
    worker, learner, schedule = new_trainer(MODEL, stack, kafka, outbox, tmp_path, closed_at={"0": 100})

    def tick_until_snapshots_say(closed: list[bool]) -> None:
        deadline = time.monotonic() + 30
        while [s.manifest.gate_closed for s in list_snapshots(str(tmp_path), MODEL.digest)] != closed:
            assert time.monotonic() < deadline
            outbox.poll()
            worker.tick()
            time.sleep(0.01)

    with schedule:
        worker.handle(examples_at(100, 40))
        tick_until_snapshots_say([True])
        assert learner.step == 0
        worker._gate.closed = False  # as enough good labels would
        worker.handle(examples_at(140, 40))
        tick_until_snapshots_say([True, False])  # though its period, of days, is not over
    assert learner.step == 1
    newest = updates(kafka)[-1]
    assert newest.offsets == {"0": 180}
    start, end = newest.quarantined["0"]
    assert start == 100
    assert end >= 140
