"""Batches that Redis has taken in but may not have on its disk yet. Knows RewardWindows; knows nothing of Kafka."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router_bandit.windows import DecisionFact, OutcomeFact, RewardWindows, Taken

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    decisions: Sequence[DecisionFact]
    outcomes: Sequence[OutcomeFact]
    done: Callable[[], None]
    written_at: float


class Journal:
    """Keeps each batch until Redis surely has it, and writes it again where Redis forgot it.

    An append-only file synced every second loses up to its last seconds when Redis is killed. A batch whose source was
    acknowledged by then would be gone for good; so `done` is called only `safe_after_s` after the write. Redis counts
    the calls of each caller beside the data: when its count is not ours, it came back without some of them (or one was
    repeated on the way), and all that is kept here is written again, which changes nothing that it still has.

    One task makes all calls. A RedisError leaves the journal as it was: call again.
    """

    def __init__(
        self,
        windows: RewardWindows,
        *,
        safe_after_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._windows = windows
        self._safe_after_s = safe_after_s
        self._clock = clock
        self._waiting: deque[_Entry] = deque()
        self._calls: int | None = None
        self._forgotten = False

    async def take(
        self, decisions: Sequence[DecisionFact], outcomes: Sequence[OutcomeFact], done: Callable[[], None]
    ) -> Taken:
        """Write a batch; `done` will be called, in the batches' order, once it is safe."""
        taken = await self._windows.take(decisions, outcomes)
        self._waiting.append(_Entry(decisions, outcomes, done, self._clock()))
        self._compare(taken.calls, 1)
        return taken

    async def release(self) -> int:
        """Write again what Redis forgot, then let go of what is safe. Returns how many batches were written again."""
        if not self._waiting:
            return 0
        self._compare(await self._windows.calls(), 0)
        again = await self._write_again() if self._forgotten else 0
        while self._waiting and self._clock() - self._waiting[0].written_at >= self._safe_after_s:
            self._waiting.popleft().done()
        return again

    def _compare(self, calls: int, made: int) -> None:
        self._forgotten |= self._calls is not None and calls != self._calls + made
        self._calls = calls

    async def _write_again(self) -> int:
        log.warning("Redis does not know of all calls: writing %d batches again", len(self._waiting))
        for entry in self._waiting:
            self._calls = (await self._windows.take(entry.decisions, entry.outcomes)).calls
            entry.written_at = self._clock()
        self._forgotten = False
        return len(self._waiting)
