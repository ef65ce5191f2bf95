"""Where the processor time of a worker's loop goes, phase by phase."""

import time
from collections import defaultdict

from streams.runtime import metrics as metric

PUBLISH_EVERY_S = 1.0


class Laps:
    """Counts a thread's processor time: what passed since the last lap belongs to the phase that is named now.

    So nothing is counted twice and nothing left out. A lap takes half a microsecond. One thread makes it and calls it.
    """

    def __init__(self) -> None:
        self._since = time.thread_time()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._due = 0.0

    def lap(self, phase: str) -> None:
        """Ends a stretch of this phase."""
        now = time.thread_time()
        self._seconds[phase] += now - self._since
        self._since = now

    def publish(self) -> None:
        """Adds what was counted to the metric, at most once a second: that writes to a file."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + PUBLISH_EVERY_S
        for phase, seconds in self._seconds.items():
            metric.PROCESSOR_SECONDS.labels(phase).inc(seconds)
        self._seconds.clear()
