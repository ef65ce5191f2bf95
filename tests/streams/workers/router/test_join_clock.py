"""How far reward windows may close: the join's word, and what must be read before it counts. Redis is a real one; the
broker is scripted, as no real one can be made to let an outcome come between two questions."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from redis.asyncio import Redis as AsyncRedis

import streams.workers.router.join_clock
from feature_store.shared_clock import CLOCKS, SharedClock
from streams.kafka.ends import Ends
from streams.wire.record import Record
from streams.wire.topics import DECISIONS, OUTCOMES
from streams.workers.router.join_clock import HELD_S, LOOKS, JoinClock
from tests.feature_store.servers import Server, find_servers

T0 = 1_700_000_000_000
DECIDED, EARNED = (DECISIONS, 0), (OUTCOMES, 0)

Place = tuple[str, int]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = next(program for program in find_servers().values() if program is not None)
    server = Server(program, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


class Broker:
    """Where partitions end, what of them was fetched; and the question about it, answered when the test says so."""

    def __init__(self) -> None:
        self.ends: dict[Place, int] = {DECIDED: 0, EARNED: 0}
        self.fetched: dict[Place, int] = {}
        self.assigned = {DECIDED, EARNED}
        self.asked: dict[Place, int] | None = None
        self.answers = True

    # As EndsQuestion

    @property
    def open(self) -> bool:
        return self.asked is not None

    def ask(self, places: Iterable[Place]) -> None:
        self.asked = {place: self.ends[place] for place in places}

    def answer(self) -> Ends | None:
        if self.asked is None or not self.answers:
            return None
        asked, self.asked = self.asked, None
        return Ends(T0, asked)

    # As the app's consumer

    def assignment(self) -> set[TP]:
        return {TP(*place) for place in self.assigned}

    def highwater(self, tp: TP) -> int | None:
        return self.ends[tp] if tp in self.fetched else None

    async def position(self, tp: TP) -> int:
        return self.fetched[tp]


class House:
    def __init__(self, server: Server, now_s: list[float]) -> None:
        self.broker = Broker()
        self.server = server
        self.join = SharedClock(server.redis, "ingest")
        self._now_s = now_s
        app: Any = SimpleNamespace(consumer=self.broker)
        question: Any = self.broker
        self._redis = AsyncRedis(port=server.port)
        self.clock = JoinClock(app, self._redis, question)

    def wait(self, seconds: float) -> None:
        self._now_s[0] += seconds

    def say(self, at: int) -> None:
        self.join.agree(T0 + at, T0 + at, (0, 1))

    def handled(self, place: Place, count: int, newest: int = 0) -> None:
        """The first so many records of it."""
        record = Record(*place, count - 1, T0, None, b"", ())
        self.broker.ends[place] = max(self.broker.ends[place], count)
        self.broker.fetched[place] = count
        self.clock.handled([record], T0 + newest if newest else 0)

    def run(self, story: Callable[[], Awaitable[None]]) -> None:
        async def to_its_end() -> None:
            async with self._redis:
                await story()

        asyncio.run(to_its_end())

    async def looks(self, count: int = 4) -> int:
        """How far after T0 windows may close then."""
        for _ in range(count):
            await self.clock.look()
        return self.clock.now_ms - T0


@pytest.fixture
def house(server: Server, monkeypatch: pytest.MonkeyPatch) -> House:
    server.redis.flushall()
    now_s = [1_000.0]
    monkeypatch.setattr(streams.workers.router.join_clock, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    return House(server, now_s)


def test_windows_close_up_to_what_the_join_says_once_all_that_it_had_told_is_handled(house: House) -> None:
    async def story() -> None:
        house.broker.ends |= {DECIDED: 1, EARNED: 1}
        house.handled(DECIDED, 1)
        house.say(5)
        assert await house.looks() < 0, "an outcome of before 5 is on the topic, and not handled"
        house.handled(EARNED, 1)
        assert await house.looks() == 5

    house.run(story)


def test_an_outcome_that_came_before_the_joins_word_is_waited_for_though_it_came_after_the_last_question(
    house: House,
) -> None:
    async def story() -> None:
        house.say(5)
        house.broker.ends |= {DECIDED: 1}
        house.handled(DECIDED, 1)
        house.handled(EARNED, 1)
        house.broker.ends |= {EARNED: 1}
        house.broker.answers = False
        await house.looks(1)  # asks
        house.broker.ends |= {EARNED: 2}
        house.say(9)
        house.broker.answers = True
        assert await house.looks() == 5
        house.handled(EARNED, 2)
        assert await house.looks() == 9

    house.run(story)


def test_where_the_join_says_nothing_nothing_closes_and_what_it_said_stands(house: House) -> None:
    async def story() -> None:
        house.handled(DECIDED, 1)
        house.handled(EARNED, 1)
        assert await house.looks() < 0
        house.say(5)
        assert await house.looks() == 5
        house.server.redis.delete(CLOCKS)
        assert await house.looks() == 5
        house.join.agree(0)  # it reads something again
        assert await house.looks() == 5
        house.say(7)
        assert await house.looks() == 7

    house.run(story)


def test_a_partition_that_came_meanwhile_is_asked_about_first(house: House) -> None:
    async def story() -> None:
        house.handled(DECIDED, 1)
        house.broker.assigned = {DECIDED}
        house.say(5)
        house.broker.answers = False
        await house.looks(1)
        house.broker.assigned = {DECIDED, EARNED}
        house.broker.ends |= {EARNED: 1}
        house.broker.answers = True
        assert await house.looks() < 0
        house.handled(EARNED, 1)
        assert await house.looks() == 5

    house.run(story)


def test_a_partition_without_anything_new_holds_nothing_for_long(house: House) -> None:
    """Read to its end before our start; or its newest records are marks of transactions, which no reader is given."""

    async def story() -> None:
        house.broker.ends |= {DECIDED: 3, EARNED: 8}
        house.handled(DECIDED, 3)
        house.say(5)
        assert await house.looks(2 * LOOKS) < 0, "nothing was fetched yet"
        house.broker.fetched[EARNED] = 8
        assert await house.looks(LOOKS // 2) < 0, "what was fetched may be on its way to us"
        assert await house.looks(LOOKS) == 5

    house.run(story)


def test_that_it_waits_is_said_once_and_measured(house: House, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        house.say(5)
        house.handled(EARNED, 1)
        house.handled(DECIDED, 1, newest=4)
        house.wait(3 * HELD_S)
        await house.looks()
        assert caplog.messages == [], "all that was decided is behind the clock"
        house.handled(DECIDED, 2, newest=6)
        house.wait(3 * HELD_S)
        await house.looks()
        house.wait(10.0)
        await house.looks()
        assert len(caplog.messages) == 1
        assert held_s() == pytest.approx(3 * HELD_S + 10.0)
        house.say(7)
        await house.looks()
        assert len(caplog.messages) == 2
        assert held_s() == 0.0

    caplog.set_level(logging.INFO)
    house.run(story)


def held_s() -> float:
    from streams.runtime.metrics import REWARDS_HELD_SECONDS

    return REWARDS_HELD_SECONDS._value.get()  # type: ignore[no-any-return]


def test_nothing_closes_over_a_topic_that_was_made_anew(house: House) -> None:
    """It ends before what was read of the old one: that is not to have read it."""

    async def story() -> None:
        house.handled(DECIDED, 9)
        house.handled(EARNED, 9)
        house.say(5)
        assert await house.looks() == 5
        house.broker.ends |= {EARNED: 2}
        house.say(10)
        assert await house.looks() == 5
        house.handled(EARNED, 2)
        assert await house.looks() == 10

    house.run(story)
