"""What was sent to ingest in a drawn history, and which actions may label which impressions."""

from dataclasses import dataclass, field

from streams.wire.messages import Conversion, Impression, Served

SECOND = 1_000
CLICK_MS, ATTRIBUTION_MS, EARLY_MS, ELAPSED_MS = 60 * SECOND, 300 * SECOND, 40 * SECOND, 90 * SECOND


@dataclass
class Sent:
    """An event, and each time that it reached the broker."""

    message: Served | Impression | Conversion
    topic: str
    value: bytes
    refused: bool
    times_ms: list[int] = field(default_factory=list)

    @property
    def first_ms(self) -> int:
        return self.times_ms[0]


def may_label(action: Sent, shown: Sent, kind: str, window_ms: int) -> bool:
    """By their event times."""
    done, seen = action.message, shown.message
    if not isinstance(done, Conversion) or not isinstance(seen, Impression):
        return False
    if done.kind != kind or done.user != seen.user or done.event_ms > seen.event_ms + window_ms:
        return False
    if done.impression_id is None:
        return done.item == seen.item and done.event_ms >= seen.event_ms
    return done.impression_id == seen.event_id and done.event_ms >= seen.event_ms - EARLY_MS


def is_in_time(action: Sent, shown: Sent, window_ms: int) -> bool:
    """Whatever the order of reading: it was at the broker before any clock could have passed it by."""
    done, seen = action.message, shown.message
    assert isinstance(done, Conversion)
    if done.impression_id is None:
        return False  # which impression is the last one is a matter of which are known by then
    in_window = action.first_ms < seen.event_ms + window_ms
    return in_window and shown.first_ms < done.event_ms + EARLY_MS
