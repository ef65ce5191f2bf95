"""Whether the time that a sender gave an event can be true. Knows records; knows nothing of messages."""

from dataclasses import dataclass

from streams.errors import Refused
from streams.wire.record import Record

_MS_OF = {"seconds": 1e3, "microseconds": 1e-3, "nanoseconds": 1e-6}
_NEAR_MS = 366 * 24 * 3_600_000
"""A time that would lie so near the broker's in another unit is taken to be in that unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeBounds:
    """What event times of a deployment can be; see Recipe."""

    min_ms: int
    max_future_ms: int

    def check(self, event_ms: int | None, record: Record) -> int:
        """The time of an event; the record's own where the sender named none. Raises Refused where it cannot be true.

        One event from 2099 would close every open window, and one of 1970 would find its own closed.
        """
        if event_ms is None:
            return record.timestamp_ms
        if event_ms > record.timestamp_ms + self.max_future_ms:
            raise Refused(
                f"event_ms must be at most {self.max_future_ms} ms ahead of the broker's {record.timestamp_ms}, "
                f"got {event_ms}{_unit_hint(event_ms, record.timestamp_ms)}"
            )
        if event_ms < self.min_ms:
            raise Refused(
                f"event_ms must be at least {self.min_ms} (the recipe's min_event_ms), "
                f"got {event_ms}{_unit_hint(event_ms, record.timestamp_ms)}"
            )
        return event_ms


def _unit_hint(value: int, near_ms: int) -> str:
    for unit, ms in _MS_OF.items():
        if abs(value * ms - near_ms) <= _NEAR_MS:
            return f", which looks like {unit}: send milliseconds"
    return ""
