"""Dead letters: the original bytes of a record that can never succeed, with why and where it was."""

from collections.abc import Iterator

from streams.outbox import Outbox
from streams.record import Record
from streams.topics import DEAD_LETTERS

ORIGINAL = "original-"
"""Prefix of the headers that the refused record had itself."""
MAX_REASON = 500


def letter_headers(record: Record, reason: str, worker: str) -> dict[str, str | bytes | None]:
    original = {ORIGINAL + name: value for name, value in record.headers}
    return original | {
        "reason": reason[:MAX_REASON],
        "worker": worker,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp-ms": str(record.timestamp_ms),
    }


def bury(outbox: Outbox, record: Record, reason: str, *, worker: str) -> None:
    """Sends a record to the dead-letter topic; it is acknowledged before the record's offset is committed."""
    outbox.send(DEAD_LETTERS, record.value or b"", key=record.key, headers=letter_headers(record, reason, worker))


def original_headers(letter: Record) -> Iterator[tuple[str, bytes | str | None]]:
    """The headers that the refused record had, to send it again with."""
    for name, value in letter.headers:
        if name.startswith(ORIGINAL):
            yield name.removeprefix(ORIGINAL), value


def letter_place(letter: Record) -> tuple[str, int, int] | None:
    """(topic, partition, offset) of the refused record; None if the letter does not say, as none of ours does."""
    topic, partition, offset = (letter.header(name) for name in ("topic", "partition", "offset"))
    if topic is None or not (partition or "").isdigit() or not (offset or "").isdigit():
        return None
    return topic, int(partition or ""), int(offset or "")
