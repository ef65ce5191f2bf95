"""A server that is away, or refuses what it is asked: how long to wait between tries, and what to say of it."""

import logging
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from streams.runtime import metrics as metric
from streams.runtime.redis_client import raise_if_forbidden, reason_of

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 2.0
"""Short enough to go on at once when the server is well again, and so long that trying costs nothing."""
CALM_S = 2.0
"""An outage is over once nothing has failed for so long: a server that refuses every second call is not well."""
REMIND_S = 60.0


class Outage:
    """What goes wrong between one worker and one server.

    Tell it of each try whether it failed or worked. Its pauses grow, and its lines in the log do not: one when it
    begins, one for each further kind of failure, one a minute while it lasts, one when it is over.
    """

    def __init__(self, server: str, meanwhile: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """meanwhile: what the worker does until it is over, for the log."""
        self._server = server
        self._meanwhile = meanwhile
        self._clock = clock
        self._began: float | None = None
        self._well_since: float | None = None
        """When something first worked again after the newest failure."""
        self._tries = 0
        self._pause_s = 0.0
        self._kinds: set[str] = set()
        self._remind_due = 0.0

    def failed(self, kind: str, reason: str) -> float:
        """Returns the seconds to wait before the next try. kind: failures of one kind are said once."""
        now = self._clock()
        self._well_since = None
        if self._began is None:
            self._began, self._tries, self._pause_s = now, 0, FIRST_PAUSE_S / 2
            self._kinds.clear()
        self._tries += 1
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if kind not in self._kinds:
            self._kinds.add(kind)
            self._remind_due = now + REMIND_S
            log.warning("%s: %s; %s until that is over", self._server, reason, self._meanwhile)
        elif now >= self._remind_due:
            self._remind_due = now + REMIND_S
            lasts_s = now - self._began
            log.warning("%s: for %.0f s by now, %d failures: %s", self._server, lasts_s, self._tries, reason)
        return self._pause_s

    def worked(self) -> None:
        """A try of the same kind as those that failed has worked."""
        if self._began is None:
            return
        now = self._clock()
        if self._well_since is None:
            self._well_since = now
        if now - self._well_since >= CALM_S:
            lasted_s = self._well_since - self._began
            log.warning("%s: well again after %.1f s and %d failures", self._server, lasted_s, self._tries)
            self._began = None


class RedisOutage(Outage):
    """An outage of Redis for a worker that waits for it."""

    def __init__(self, worker: str, meanwhile: str) -> None:
        super().__init__("redis", meanwhile)
        self._worker = worker

    def failed_of(self, error: RedisError) -> float:
        """As `failed`. Raises StartError for what waiting does not mend."""
        raise_if_forbidden(error)
        metric.REDIS_PAUSES.labels(self._worker).inc()
        return self.failed(*reason_of(error))
