"""Replaying a log: the requests, impressions and clicks it tells of, in event time, over Kafka.

A step is a stretch of the log short beside the click window. Its requests are sent together and their answers awaited;
then what was logged is shown and clicked; then the step is over when all of that is stored. So the user logs that the
next step is scored with are what they would have been at the time, however fast the replay runs, and no window closes
over an event that is still on its way. The trainer may lag by a bounded number of examples.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from streams.client import RankingClient
from streams.datasets.logs.traffic import FeatureMap, LoggedImpression, TrafficLog
from streams.errors import StreamError
from streams.wire.messages import Candidate, Conversion, Impression, RankingRequest, RankingResponse
from streams.wire.topics import CONVERSIONS, IMPRESSIONS

DEADLINE_MS = 600_000
"""Deadline of requests: a replay wants every answer, however late."""
STALL_S = 60.0
DAY_MS = 24 * 3_600_000
RECENT_ITEMS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast a replay goes."""

    speed: float | None = None
    """Event time over wall time; None: as fast as the system learns."""
    in_flight: int = 32
    """Most requests that wait for their answer."""
    lag: int = 256
    """Most examples that the trainer may be behind before the next requests are sent; 0: it learns each page (what a
    user was shown at one time) before the next is scored."""

    def __post_init__(self) -> None:
        if self.speed is not None and not self.speed > 0:
            raise ValueError(f"speed must be > 0, got {self.speed}")
        if self.in_flight < 1 or self.lag < 0:
            raise ValueError(f"in_flight must be >= 1 and lag >= 0, got {self.in_flight}, {self.lag}")

    def is_over(self, step: Sequence[LoggedImpression], row: LoggedImpression) -> bool:
        """Whether the row is of a step after this one."""
        if self.lag == 0:
            return (row.user, row.event_ms) != (step[0].user, step[0].event_ms)
        return len(step) >= min(self.in_flight, self.lag)


class Progress(Protocol):
    """How far the system has come; see watch.Watch."""

    def poll(self) -> None: ...
    def unlearned(self) -> int: ...
    def stored(self, offsets: dict[tuple[str, int], int]) -> bool: ...


@dataclass(slots=True)
class Sent:
    """What a replay has done so far."""

    requests: int = 0
    responses: dict[str, int] = field(default_factory=dict)
    """First responses by status."""
    impressions: int = 0
    with_prediction: int = 0
    """Impressions of responses that were scored: each becomes one click example."""
    clicks: int = 0
    event_ms: int = 0
    seconds: float = 0.0


class Replay:
    """One run through a log. `shift_ms` is added to all its times."""

    def __init__(
        self,
        client: RankingClient,
        progress: Progress,
        log: TrafficLog,
        *,
        pace: Pace,
        prefix: str,
        shift_ms: int = 0,
        seed: int = 0,
        tell: Callable[[Sent], None] = lambda sent: None,
    ) -> None:
        self._client = client
        self._progress = progress
        self._log = log
        self._pace = pace
        self._prefix = prefix
        self._shift_ms = shift_ms
        self._rng = np.random.default_rng(seed)
        self._recent: deque[tuple[str, FeatureMap]] = deque(maxlen=RECENT_ITEMS)
        self._tell = tell
        self.sent = Sent()
        self.place_of: dict[str, int] = {}
        """By response, place of its impression among those sent."""

    def run(self, rows: Iterator[LoggedImpression]) -> Sent:
        """Sends the rows, which must be in the order of time, and closes their windows.

        Raises StreamError if an answer or the storing of events does not come within a minute.
        """
        began_s, first_ms = time.monotonic(), None
        for step in self._steps(rows):
            first_ms = step[0].event_ms if first_ms is None else first_ms
            if self._pace.speed is not None:
                due_s = began_s + (step[0].event_ms - first_ms) / 1000 / self._pace.speed
                time.sleep(max(0.0, due_s - time.monotonic()))
            self._step(step)
            self.sent.seconds = time.monotonic() - began_s
            self._tell(self.sent)
        if self.sent.requests:
            self._close_windows()
        return self.sent

    def _steps(self, rows: Iterator[LoggedImpression]) -> Iterator[list[LoggedImpression]]:
        step: list[LoggedImpression] = []
        for row in rows:
            over = step and row.event_ms - step[0].event_ms > self._log.click_window_ms // 2
            if step and (over or self._pace.is_over(step, row)):
                yield step
                step = []
            step.append(row)
        if step:
            yield step

    def _step(self, rows: Sequence[LoggedImpression]) -> None:
        requests = [self._request(row) for row in rows]
        answers = self._ask(requests)
        for row, request in zip(rows, requests, strict=True):
            self._show(row, answers[request.request_id])
        self._client.flush(STALL_S)
        events = {
            place: end for place, end in self._client.acknowledged.items() if place[0] in (IMPRESSIONS, CONVERSIONS)
        }
        self._wait(lambda: self._progress.stored(events), "the events are not stored; is `tiderank ingest` running?")
        self._wait(
            lambda: self._progress.unlearned() <= self._pace.lag,
            "the examples are not learned; is `tiderank train` running?",
        )
        self.sent.event_ms = rows[-1].event_ms + self._shift_ms

    def _request(self, row: LoggedImpression) -> RankingRequest:
        features = row.item_features or {}
        others = dict(self._others(row.item))
        items = [(row.item, features), *others.items()]
        self._recent.append((row.item, features))
        order = self._rng.permutation(len(items))
        self.sent.requests += 1
        return RankingRequest(
            request_id=f"{self._prefix}-{self.sent.requests}",
            user=row.user,
            candidates=[Candidate(item=items[i][0], features=items[i][1]) for i in order],
            features=row.user_features or {},
            context=row.context or {},
            event_ms=row.event_ms + self._shift_ms,
            top_k=len(items),
        )

    def _others(self, item: str) -> Iterator[tuple[str, FeatureMap]]:
        """Draws items that were shown shortly before, to make up the candidates: they are not shown, and nothing is
        learned of them."""
        if self._recent:
            for i in self._rng.integers(0, len(self._recent), self._log.candidates - 1):
                if self._recent[i][0] != item:
                    yield self._recent[i]

    def _ask(self, requests: Sequence[RankingRequest]) -> dict[str, RankingResponse]:
        for request in requests:
            self._client.send(request, deadline_ms=DEADLINE_MS)
        answers: dict[str, RankingResponse] = {}
        end_s = time.monotonic() + STALL_S
        while len(answers) < len(requests):
            answers |= {response.request_id: response for response, _ in self._client.poll(0.05)}
            self._progress.poll()
            if time.monotonic() > end_s:
                missing = len(requests) - len(answers)
                raise StreamError(
                    f"{missing} requests were not answered in {STALL_S:.0f} s; is `tiderank rank` running?"
                )
        return answers

    def _show(self, row: LoggedImpression, response: RankingResponse) -> None:
        self.sent.responses[response.status] = self.sent.responses.get(response.status, 0) + 1
        self.place_of[response.response_id] = self.sent.impressions
        event_ms = row.event_ms + self._shift_ms
        impression = Impression(
            event_id=f"{response.request_id}.i",
            user=row.user,
            response_id=response.response_id,
            item=row.item,
            position=row.position,
            event_ms=event_ms,
        )
        self._client.send_impression(impression)
        self.sent.impressions += 1
        self.sent.with_prediction += response.status == "ok"
        if row.clicked:
            click = Conversion(
                event_id=f"{response.request_id}.c",
                user=row.user,
                kind="click",
                item=row.item,
                impression_id=impression.event_id,
                event_ms=event_ms,
            )
            self._client.send_conversion(click)
            self.sent.clicks += 1

    def _close_windows(self) -> None:
        """Moves event time past every window: a request without candidates is nothing but its time."""
        end = RankingRequest(
            request_id=f"{self._prefix}-end",
            user="replay-end",
            candidates=[],
            event_ms=self.sent.event_ms + 2 * self._log.click_window_ms,
        )
        self._ask([end])

    def _wait(self, reached: Callable[[], bool], stalled: str) -> None:
        end_s = time.monotonic() + STALL_S
        self._progress.poll()
        while not reached():
            if time.monotonic() > end_s:
                raise StreamError(f"for {STALL_S:.0f} s, {stalled}")
            time.sleep(0.002)
            self._progress.poll()


def shift_into_the_past(newest_ms: int, window_ms: int, now_ms: int) -> int:
    """What to add to the times of a log, in ms: 0, or whole days (so that hours stay) back from where its last windows
    would close in the future, which no worker believes."""
    beyond = newest_ms + 3 * window_ms - now_ms
    return 0 if beyond <= 0 else -DAY_MS * -(-beyond // DAY_MS)
