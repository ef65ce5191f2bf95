"""Reading and replaying dead letters. A letter's number is its offset on the dead-letter topic."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import TopicPartition

from streams.errors import StreamError
from streams.kafka.connection import Kafka
from streams.kafka.dead_letters import original_headers
from streams.kafka.outbox import Outbox
from streams.kafka.scan import committed, read_topic
from streams.wire.headers import CUT_FROM, OFFSET, PARTITION, REASON, TIMESTAMP_MS, TOPIC, WORKER
from streams.wire.record import Record
from streams.wire.topics import DEAD_LETTERS, GROUPS, TOPICS

GROUP = GROUPS["dlq"]
"""Whose committed offset says up to where `replay` of all has come."""


@dataclass(frozen=True, slots=True)
class Letter:
    record: Record

    @property
    def number(self) -> int:
        return self.record.offset

    @property
    def topic(self) -> str:
        return self.record.header("topic") or ""

    def summary(self) -> dict[str, str | int | None]:
        names = (TOPIC, PARTITION, OFFSET, TIMESTAMP_MS, WORKER, REASON)
        key = self.record.key.decode(errors="replace") if self.record.key else None
        headers = {name: self.record.header(name) for name in names}
        return {"number": self.number, **headers, "key": key, "bytes": len(self.record.value or b"")}

    def line(self) -> str:
        s = self.summary()
        return f"{s['number']:>6}  {s['topic']}[{s['partition']}]@{s['offset']}  {s['worker']}  {s['reason']}"


def list_letters(kafka: Kafka, *, limit: int | None = None) -> list[Letter]:
    """The newest `limit` letters, oldest first."""
    letters = [Letter(record) for record in read_topic(kafka, DEAD_LETTERS)]
    return letters if limit is None else letters[-limit:] if limit > 0 else []


def find_letter(kafka: Kafka, number: int) -> Letter:
    for letter in list_letters(kafka):
        if letter.number == number:
            return letter
    raise StreamError(f"no dead letter {number}; `tiderank dlq ls` lists those there are")


def replay(kafka: Kafka, numbers: set[int] | None) -> Iterator[str]:
    """Sends the letters back to where they came from; yields a line for each.

    None: all that no such call has sent back yet. How far it came is a committed offset of GROUP, so that calling it
    again sends nothing twice, and a letter that is refused again is sent once more, not once more for each of its kind.
    """
    letters = list_letters(kafka)
    if numbers is None:
        done = committed(kafka, GROUP, DEAD_LETTERS)[0]
        letters = [letter for letter in letters if letter.number >= done]
    elif missing := numbers - {letter.number for letter in letters}:
        raise StreamError(f"no dead letters {sorted(missing)}; nothing was replayed")
    else:
        letters = [letter for letter in letters if letter.number in numbers]
    producer = kafka.producer()
    outbox = Outbox(producer)
    for letter in letters:
        if letter.topic not in TOPICS or letter.topic == DEAD_LETTERS:
            yield f"{letter.number}: skipped, {letter.topic!r} is no topic of tiderank"
            continue
        record = letter.record
        if (size := record.header(CUT_FROM)) is not None:
            yield f"{letter.number}: skipped, of its {size} bytes the letter holds the first alone"
            continue
        outbox.send(letter.topic, record.value or b"", key=record.key, headers=dict(original_headers(record)))
        yield f"{letter.number}: sent to {letter.topic}"
    if left := producer.flush(10.0):
        raise StreamError(f"{left} letters were not acknowledged in 10 s; replay them again")
    outbox.raise_failure()
    if numbers is None and letters:
        place = TopicPartition(DEAD_LETTERS, 0, letters[-1].number + 1)
        with closing(kafka.reader(group=GROUP)) as reader:
            reader.commit(offsets=[place], asynchronous=False)
