"""Dead letters: the original bytes of a record that can never succeed, with why and where it was."""

from collections.abc import Iterator

from streams.kafka.outbox import Outbox
from streams.wire.headers import CUT_FROM, OFFSET, ORIGINAL, PARTITION, REASON, TIMESTAMP_MS, TOPIC, WORKER
from streams.wire.record import Record
from streams.wire.topics import DEAD_LETTERS

MAX_REASON = 500
MAX_VALUE = 4_000_000
"""Bytes of a value that a letter takes; the rest of the topic's limit is room for headers. Larger ones come only from
topics on which the broker leaves records packed: what was a megabyte there may be anything here."""
MAX_HEADERS = 900_000
"""Bytes of the refused record's own headers that it takes; beyond that it goes without them."""


def letter_headers(record: Record, reason: str, worker: str) -> dict[str, str | bytes | None]:
    original = {ORIGINAL + name: value for name, value in record.headers}
    size = len(record.value or b"")
    return (original if sum(len(value or b"") for value in original.values()) <= MAX_HEADERS else {}) | {
        **({CUT_FROM: str(size)} if size > MAX_VALUE else {}),
        REASON: reason[:MAX_REASON],
        WORKER: worker,
        TOPIC: record.topic,
        PARTITION: str(record.partition),
        OFFSET: str(record.offset),
        TIMESTAMP_MS: str(record.timestamp_ms),
    }


def bury(outbox: Outbox, record: Record, reason: str, *, worker: str) -> None:
    """Sends a record to the dead-letter topic; it is acknowledged before the record's offset is committed."""
    outbox.send(DEAD_LETTERS, letter_value(record), key=record.key, headers=letter_headers(record, reason, worker))


def letter_value(record: Record) -> bytes:
    """The original bytes, or as many of them as a letter takes."""
    return (record.value or b"")[:MAX_VALUE]


def original_headers(letter: Record) -> Iterator[tuple[str, bytes | str | None]]:
    """The headers that the refused record had, to send it again with."""
    for name, value in letter.headers:
        if name.startswith(ORIGINAL):
            yield name.removeprefix(ORIGINAL), value


def letter_place(letter: Record) -> tuple[str, int, int] | None:
    """(topic, partition, offset) of the refused record; None if the letter does not say, as none of ours does."""
    topic, partition, offset = (letter.header(name) for name in (TOPIC, PARTITION, OFFSET))
    if topic is None or not (partition or "").isdigit() or not (offset or "").isdigit():
        return None
    return topic, int(partition or ""), int(offset or "")
