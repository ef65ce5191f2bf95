"""One record as it came from a topic: what workers handle instead of the client's own message."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confluent_kafka import Message

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True)
class Record:
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """Time of the broker (LogAppendTime); on the in-memory broker, of the sending client."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | str | None], ...]

    @classmethod
    def of(cls, message: "Message") -> "Record":
        try:
            headers = message.headers() or ()
        except SystemError:  # a name that is not UTF-8, which the client cannot hand over: none of them counts
            headers = ()
        return cls(
            message.topic() or "",
            message.partition() or 0,
            message.offset() or 0,
            message.timestamp()[1],
            message.key(),
            message.value(),
            tuple(headers.items() if isinstance(headers, dict) else headers),
        )

    def header(self, name: str) -> str | None:
        """The last header of that name as text; None where there is none or it is not UTF-8."""
        for key, value in reversed(self.headers):
            if key == name and isinstance(value, bytes):
                try:
                    return value.decode()
                except UnicodeDecodeError:
                    return None
        return None

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


def next_offsets(records: Iterable[Record]) -> dict[tuple[str, int], int]:
    """Where to go on after these records, by (topic, partition)."""
    return {(r.topic, r.partition): r.offset + 1 for r in records}
