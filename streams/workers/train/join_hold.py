"""Whether the join holds its windows, so that clicks come and what was not clicked does not."""

import time

from streams.config.recipe import JOIN_HOLD_S
from streams.wire.messages import TrainingExample
from streams.workers.train.examples import surprise

AHEAD_MS = 3_000
"""How far an event may be ahead of the join's clock in a house that is well: about a second."""
SURPRISE_NATS = 7.0
"""Clicks in a row that are less likely than e^-7, by what was predicted of them: three or four."""
STANDS = 0.5
"""A clock that falls behind by this share of the time that passes is not late, it stands still."""


class JoinHold:
    """A trainer that goes on learning then learns that everything is clicked: predictions rise sixfold within seconds.

    So it waits for the join's clock, and then learns both at once: where events are far ahead of it, and at once where
    only clicks came in a row. Where the clock goes on and stays behind, or windows close without it, it does not wait
    without end: then that is how this house is, until it has caught up once. Where it stands still, it waits on.
    """

    def __init__(self, *, live: bool) -> None:
        """live: event time is the time of day. In a replay, which is faster than that, nothing is ever held."""
        self._live = live
        self._shown_ms = self._clicked_ms = 0
        """The newest time of an impression whose label came far ahead of the join's clock, and of a click."""
        self._surprise = 0.0
        """Nats: how unlikely are the clicks since the last impression that was not clicked."""
        self._since: float | None = None
        """When it began, or when the clock was last found standing still since; on a monotonic clock."""
        self._behind_ms = 0
        """How far the clock was behind then."""
        self._closed_since = False
        """Whether a window has closed since then."""

    def read(self, example: TrainingExample, bound_ms: int, sent_ms: int) -> None:
        """An example came. bound_ms: no event time counts beyond it. sent_ms: the join's clock when it was sent, which
        is ahead of what is known of it where the trainer itself has much to read."""
        self._closed_since = self._closed_since or example.by_window
        shown_ms = min(example.shown_ms, bound_ms)
        if not example.by_window and shown_ms > sent_ms + AHEAD_MS:
            self._shown_ms = max(self._shown_ms, shown_ms)
        if example.kind == "click" and example.label > 0:
            self._clicked_ms = max(self._clicked_ms, min(example.label_ms, bound_ms))
            self._surprise += surprise(example)
        elif example.kind == "click":
            self._surprise = 0.0

    def holds(self, closed_ms: int) -> bool:
        """closed_ms: the join's clock, as far as all of its labels have been read."""
        alone = self._surprise >= SURPRISE_NATS and self._clicked_ms > closed_ms
        if not self._live or not (alone or self._shown_ms > closed_ms + AHEAD_MS):
            self._since = None
            return False
        now, behind_ms = time.monotonic(), max(self._shown_ms, self._clicked_ms) - closed_ms
        waited_s = now - self._since if self._since is not None else 0.0
        falls_behind = behind_ms - self._behind_ms >= STANDS * 1000 * waited_s
        if self._since is None or (waited_s >= JOIN_HOLD_S and falls_behind and not self._closed_since):
            self._since, self._behind_ms, self._closed_since = now, behind_ms, False
        return now - self._since < JOIN_HOLD_S
