"""Lines of the log that would repeat without end: each kind is said once a minute."""

import time
from collections.abc import Callable, Hashable

EVERY_S = 60.0


class Sparing:
    """Kinds are few: of servers, topics and errors, never of what a stranger sends."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[Hashable, float] = {}

    def due(self, kind: Hashable) -> bool:
        """Whether a line of this kind is to be said now; then the next is due in a minute."""
        now = self._clock()
        if now - self._said.get(kind, float("-inf")) < EVERY_S:
            return False
        self._said[kind] = now
        return True
