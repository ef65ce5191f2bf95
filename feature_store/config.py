"""What can be chosen about the log and the join, with units and reasons."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

HOUR_MS = 3_600_000
WINDOWS = "ingest:windows"
"""Where the windows that labels were closed by are kept, for whoever checks the labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    length: int = 2048
    """Events: the longest tier's log length."""
    slack: int = 382
    """Events kept beyond `length`, so that a log can still be read as of an older position when its labels close.

    With the defaults the value fills a 40 KiB allocation to the last record.
    """
    tags: int = 256
    """The duplicate horizon: an event delivered again is recognized while at most this many newer ones are stored."""
    ttl_s: int = 90 * 24 * 3600
    """Seconds a log outlives its last event."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.slack < 0 or self.capacity >= 2**20:
            raise ValueError(f"length must be >= 1, slack >= 0 and their sum below 2**20, got {self}")
        if not 1 <= self.tags < 2**16:
            raise ValueError(f"tags must be in 1..65535, got {self.tags}")
        if self.ttl_s < 1:
            raise ValueError(f"ttl_s must be >= 1, got {self.ttl_s}")

    @property
    def capacity(self) -> int:
        """Events a full-grown log holds."""
        return self.length + self.slack


HELD_S = 7 * 24 * 3600
"""Nothing is collected by the wall clock for so long, as long as topics keep what is still to be read: it runs on while
those who close windows are held, or down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinConfig:
    click_window_ms: int = HOUR_MS // 6
    """How long after an impression's event time it may be clicked. Then it is a negative click example."""
    click_elapsed_ms: int = 0
    """From an impression's event time: without a click until then it makes a provisional negative click example. What
    label finally comes is the same. 0: none is made."""
    attribution_window_ms: int = 24 * HOUR_MS
    """How long after an impression's event time it may convert, once clicked."""
    early_ms: int = HOUR_MS // 6
    """How long a click or conversion waits for the impression it names, in event time."""
    skew_ms: int = 5_000
    """How much earlier than its request an impression may be said to be: clocks of two machines differ. One that is
    earlier still is implausible, and gets no label: its windows could be closed before a click can come."""
    provisional: Literal["none", "click", "elapsed"] = "none"
    """Whether a click makes a conversion example before its conversion or its window's end: none; a negative one at the
    click; or a negative one once `elapsed_ms` passed without a conversion. What labels finally come is the same."""
    elapsed_ms: int = HOUR_MS
    """Time from a click's event time, for `elapsed`."""
    state_ttl_s: int = 48 * 3600
    """Seconds. Garbage collection only: what is known of an impression is dropped this long after it, in event time
    (so a redelivery is recognized until then), and a user's whole state HELD_S later than this after the last write, in
    wall time.
    """

    def __post_init__(self) -> None:
        if not 0 < self.click_window_ms <= self.attribution_window_ms:
            raise ValueError(f"0 < click_window_ms <= attribution_window_ms must hold, got {self}")
        if not 0 <= self.click_elapsed_ms < self.click_window_ms:
            raise ValueError(f"0 <= click_elapsed_ms < click_window_ms must hold, got {self}")
        if min(self.early_ms, self.skew_ms) < 0:
            raise ValueError(f"early_ms and skew_ms must be >= 0, got {self.early_ms} and {self.skew_ms}")
        if self.provisional not in ("none", "click", "elapsed"):
            raise ValueError(f"provisional must be none, click or elapsed, got {self.provisional!r}")
        if self.provisional == "elapsed" and not (
            0 < self.elapsed_ms < self.attribution_window_ms - self.click_window_ms
        ):
            raise ValueError(
                "elapsed_ms must be > 0 and end before the attribution window of the last click does: less than "
                f"attribution_window_ms - click_window_ms, got {self}"
            )
        if self.state_ttl_s * 1000 <= self.attribution_window_ms:
            raise ValueError(
                f"state_ttl_s must be longer than attribution_window_ms, got {self}; "
                "state dropped before its window closes would lose labels"
            )


def windows(config: JoinConfig) -> bytes:
    """What is stored under WINDOWS."""
    return json.dumps(asdict(config), sort_keys=True).encode()
