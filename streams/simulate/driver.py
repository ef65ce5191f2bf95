"""The simulated ad system itself: asks for rankings at a given rate, shows what comes, and reports what happened.

Open loop: request n of a phase is due at start + n / rate (or when the phase says) whatever has been answered, and its
latency counts from then, so a slow ranker cannot hide by slowing its own load (coordinated omission). One thread; it
never waits for anything but the next response or the next thing due.
"""

import heapq
import itertools
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from streams.client import RankingClient
from streams.simulate.outcomes import Event, events, explored, search_event, show
from streams.simulate.report import SimReport, Tally, percentiles
from streams.simulate.traffic import Traffic, Visit
from streams.simulate.world import World, sigmoid
from streams.wire.messages import MAX_RETURNED, Candidate, Conversion, Impression, RankingRequest, RankingResponse

LATE_S = 0.010
_EPHEMERAL = 4096  # (item, bid) pairs whose candidates are kept ready
_RETURNED = 20  # of a request whose page is of the best


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of the run at one rate. Without `requests` or `seconds` it lasts until it is told to end."""

    rate: float
    """Requests per second."""
    requests: int | None = None
    seconds: float | None = None
    name: str = "run"
    due_s: Sequence[float] | None = None
    """When its requests are due, in seconds from its start; it ends when the last is sent. None: evenly, at `rate`."""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 100_000:
            raise ValueError(f"rate must be in (0, 100000] requests a second, got {self.rate}")


class Observer(Protocol):
    """Is told of every request as it happens, in the thread of the run."""

    def sent(self, late_ms: float) -> None:
        """A request left, so long after it was due."""

    def answered(self, response: RankingResponse, latency_ms: float) -> None:
        """The first response of a request was read, so long after the request was due."""


Commands = queue.SimpleQueue[str]
"""Lines that steer a run: `rate 200`, `poison 0.2` (from here on that share of clicks is a lie), `next` (the phase
ends), `stop` (the run ends)."""


@dataclass(slots=True)
class _Asked:
    visit: Visit
    due_s: float
    tally: Tally


def simulate(
    client: RankingClient,
    world: World,
    phases: Sequence[Phase],
    *,
    prefix: str,
    deadline_ms: int | None = None,
    commands: Commands | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    observer: Observer | None = None,
    drain_s: float = 10.0,
) -> SimReport:
    """Runs the phases one after another; the last is the measured one.

    prefix: begins every request id; two runs against one broker need different ones.
    progress: called about once a second with counts so far, and the latency of that second and of the phase.
    drain_s: how long, after the last request, answers and what users still do are waited for.
    """
    if not phases:
        raise ValueError("simulate needs at least one phase")
    run = _Run(client, world, prefix, deadline_ms, commands, progress, observer)
    for phase in phases:
        run.phase(phase)
    run.drain(drain_s)
    client.flush()
    return run.report()


class _Run:
    def __init__(
        self,
        client: RankingClient,
        world: World,
        prefix: str,
        deadline_ms: int | None,
        commands: Commands | None,
        progress: Callable[[dict[str, Any]], None] | None,
        observer: Observer | None,
    ) -> None:
        self._client = client
        self._world = world
        self._prefix = prefix
        self._deadline_ms = deadline_ms
        self._commands = commands
        self._progress = progress
        self._observer = observer
        self._traffic = Traffic(world)
        self._users = [world.user_features(u) for u in range(world.config.users)]
        self._items = [world.item_features(i) for i in range(world.config.items)]
        self._number = {name: i for i, name in enumerate(world.item_ids)}
        self._candidates: dict[tuple[int, float], Candidate] = {}
        self._asked: dict[str, _Asked] = {}
        self._due: list[tuple[int, int, Event, Tally]] = []
        self._order = itertools.count()
        self._tallies: list[Tally] = []
        self._request_ids: list[str] = []
        self._event_ids: list[str] = []
        self._stopped = False
        self._poisoned = 0.0
        self._started_s = self._said_s = time.monotonic()
        self._said_answers = 0

    def phase(self, phase: Phase) -> None:
        tally = Tally(phase.name, phase.rate)
        self._tallies.append(tally)
        self._said_answers = 0
        start_s = time.monotonic()
        due = _due_times(phase, tally)
        next_s = start_s + next(due)
        while not self._stopped and not self._ended(phase, tally, time.monotonic() - start_s):
            if time.monotonic() >= next_s:
                self._ask(tally, next_s)
                next_s = start_s + next(due)
            self._serve(next_s)
            if self._steer(tally):
                break
        tally.seconds = time.monotonic() - start_s

    def drain(self, seconds: float) -> None:
        """Waits until every request is answered and every event sent, or the time is over."""
        end_s = time.monotonic() + seconds
        while (self._asked or self._due) and time.monotonic() < end_s:
            self._serve(end_s)
            self._steer(self._tallies[-1])

    def report(self) -> SimReport:
        return SimReport(
            phases=self._tallies,
            answered_again=self._client.repeats,
            delivery_errors=self._client.delivery_errors,
            unsent_events=len(self._due),
            correlation_per_minute=self._world.correlation(60.0),
            request_ids=self._request_ids,
            event_ids=self._event_ids,
        )

    @staticmethod
    def _ended(phase: Phase, tally: Tally, seconds: float) -> bool:
        requests = phase.requests if phase.due_s is None else len(phase.due_s)
        by_requests = requests is not None and tally.requests >= requests
        return by_requests or (phase.seconds is not None and seconds >= phase.seconds)

    def _steer(self, tally: Tally) -> bool:
        """Carries out waiting commands; True where the phase is to end. Also reports progress."""
        if time.monotonic() - self._said_s >= 1.0:
            self._say(tally)
        while self._commands is not None:
            try:
                words = self._commands.get_nowait().split()
            except queue.Empty:
                return False
            match words:
                case ["rate", rate]:
                    tally.rate = Phase(rate=float(rate)).rate
                case ["poison", share]:
                    self._poisoned = float(share)
                case ["next"]:
                    return True
                case ["stop"]:
                    self._stopped = True
                    return True
                case _:
                    raise ValueError(
                        f"commands are `rate N`, `poison SHARE`, `next` and `stop`, got {' '.join(words)!r}"
                    )
        return False

    def _serve(self, until_s: float) -> None:
        """Sends what is due and takes what has come, waiting for it no longer than to the next thing due."""
        now_ms = time.time_ns() // 1_000_000
        while self._due and self._due[0][0] <= now_ms:
            _, _, event, tally = heapq.heappop(self._due)
            self._send(event, tally)
        wait_s = min(until_s - time.monotonic(), 0.1)
        if self._due:
            wait_s = min(wait_s, (self._due[0][0] - now_ms) / 1000)
        for response, _ in self._client.poll(max(0.0, wait_s)):
            self._answered(response)

    def _ask(self, tally: Tally, due_s: float) -> None:
        now_ms = time.time_ns() // 1_000_000
        visit = self._traffic.next(now_ms)
        request_id = f"{self._prefix}-{visit.number}"
        search = search_event(self._world, visit, request_id, now_ms)
        if search is not None:
            self._send(Event(now_ms, search), tally)
        request = RankingRequest(
            request_id=request_id,
            user=self._world.user_ids[visit.user],
            candidates=[self._candidate(i, b) for i, b in zip(visit.items.tolist(), visit.bids.tolist(), strict=True)],
            features=dict(self._users[visit.user]),
            context={"device": visit.device},
            surface=visit.surface,
            event_ms=now_ms,
            top_k=MAX_RETURNED if explored(self._world, request_id) else _RETURNED,
        )
        self._asked[request_id] = _Asked(visit, due_s, tally)
        self._client.send(request, deadline_ms=self._deadline_ms)
        self._request_ids.append(request_id)
        tally.requests += 1
        tally.candidates += len(visit.items)
        late_s = time.monotonic() - due_s
        tally.late_sends += late_s > LATE_S
        if self._observer is not None:
            self._observer.sent(1000 * late_s)

    def _candidate(self, item: int, bid: float) -> Candidate:
        candidate = self._candidates.get((item, bid))
        if candidate is None:
            if len(self._candidates) >= _EPHEMERAL + len(self._items):
                self._candidates.clear()  # bids of flights long over
            candidate = Candidate(item=self._world.item_ids[item], features=dict(self._items[item]), bid=round(bid, 4))
            self._candidates[item, bid] = candidate
        return candidate

    def _answered(self, response: RankingResponse) -> None:
        asked = self._asked.pop(response.request_id)
        latency_ms = 1000 * (time.monotonic() - asked.due_s)
        asked.tally.answer(response.status, latency_ms)
        if self._observer is not None:
            self._observer.answered(response, latency_ms)
        if not response.items:
            return
        world, now_ms = self._world, time.time_ns() // 1_000_000
        numbers = np.array([self._number[ranked.item] for ranked in response.items], dtype=np.int64)
        page = show(world, asked.visit, response.request_id, response.response_id, numbers, now_ms)
        for event in events(world, page, self._poisoned):
            heapq.heappush(self._due, (event.send_ms, next(self._order), event, asked.tally))
        self._value(asked, page.items, now_ms)
        pctr = dict(zip(numbers.tolist(), (ranked.pctr for ranked in response.items), strict=True))
        predicted = [pctr[item] for item in page.items.tolist()]
        if all(p is not None for p in predicted):
            asked.tally.grade(page.click, np.array(predicted, dtype=np.float64))

    def _value(self, asked: _Asked, shown: np.ndarray[Any, np.dtype[np.int64]], now_ms: int) -> None:
        """What the page is worth beside the best one that the candidates allowed."""
        visit, world = asked.visit, self._world
        logits = world.click_logit(visit.user, visit.items, now_ms, surface=visit.surface, device=visit.device)
        worth = dict(zip(visit.items.tolist(), (sigmoid(logits) * visit.bids).tolist(), strict=True))
        looks = world.examination(np.arange(len(shown)))
        asked.tally.value += float(looks @ [worth[i] for i in shown.tolist()])
        asked.tally.best_value += float(looks @ np.sort(list(worth.values()))[::-1][: len(shown)])

    def _send(self, event: Event, tally: Tally) -> None:
        message = event.message
        if isinstance(message, Impression):
            self._client.send_impression(message)
        else:
            self._client.send_conversion(message)
        tally.count("repeated" if event.repeated else _kind(message))
        tally.count("overtaken", int(event.overtaken))
        if not event.repeated:
            self._event_ids.append(message.event_id)

    def _say(self, tally: Tally) -> None:
        now_s = time.monotonic()
        if self._progress is not None:
            summary = tally.summary()
            self._progress(
                summary
                | {
                    "elapsed_s": round(now_s - self._started_s, 1),
                    "rate": tally.rate,
                    "waiting": len(self._asked),
                    "latency_ms": percentiles(tally.latency_ms[self._said_answers :]),
                    "phase_latency_ms": summary["latency_ms"],
                }
            )
        self._said_s, self._said_answers = now_s, len(tally.latency_ms)


def _due_times(phase: Phase, tally: Tally) -> Iterator[float]:
    """Seconds from the start of the phase, without end; an even rate may change on the way."""
    if phase.due_s is not None:
        yield from phase.due_s
        while True:
            yield float("inf")
    at_s = 0.0
    while True:
        yield at_s
        at_s += 1 / tally.rate


def _kind(message: Impression | Conversion) -> str:
    return "impression" if isinstance(message, Impression) else message.kind
