"""Whether the join holds its windows, so that clicks come and what was not clicked does not."""

import time

AHEAD_MS = 3_000
"""How far an event may be ahead of the join's clock in a house that is well: about a second."""
PATIENCE_S = 30.0
"""After Redis was away and when workers change, ingest holds its windows for 10 s."""


class JoinHold:
    """A trainer that goes on learning then learns that everything is clicked: predictions rise sixfold within seconds.

    So it waits for the join's clock, and then learns both at once. It does not wait without end: where the clock stays
    behind, it goes on until it has caught up once.
    """

    def __init__(self, *, live: bool) -> None:
        """live: event time is the time of day. In a replay, which is faster than that, nothing is ever held."""
        self._live = live
        self._newest_ms = 0
        self._since: float | None = None
        """When it began, on a monotonic clock."""

    def event(self, shown_ms: int) -> None:
        """A label came that no window decided, of what was looked at then."""
        self._newest_ms = max(self._newest_ms, shown_ms)

    def holds(self, closed_ms: int) -> bool:
        """closed_ms: the join's clock, as far as all of its labels have been read."""
        if not self._live or self._newest_ms <= closed_ms + AHEAD_MS:
            self._since = None
            return False
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since < PATIENCE_S
