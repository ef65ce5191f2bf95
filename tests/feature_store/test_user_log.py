"""The user log: what is stored is read back, as of every position, or it is said why not."""

import pytest
from redis import Redis

from feature_store import (
    ActionFact,
    JoinConfig,
    Joiner,
    LogConfig,
    LogGone,
    LogSlice,
    LogWant,
    LogWantAsOf,
    Position,
    UserLog,
)
from feature_store.forget import forget_user
from feature_store.keys import log_key
from feature_store.layout import decode_header, growth_steps
from tests.feature_store.facts import action, record

SMALL = LogConfig(length=40, slack=20, tags=8)


def event(number: int, user: str = "u") -> ActionFact:
    """A search: it goes to the log alone."""
    fact = action(f"e{number}", "log", names=None, user=user)
    return ActionFact(**{name: getattr(fact, name) for name in fact.__slots__} | {"record": record(number)})


def numbers(slice_: LogSlice | LogGone) -> list[int]:
    assert isinstance(slice_, LogSlice), slice_
    return [int(item) for item in slice_.events["item"]]


def store(redis: Redis, config: LogConfig, first: int, last: int) -> None:
    Joiner(redis, config, JoinConfig()).apply([event(n) for n in range(first, last)], {})


def test_an_unknown_user_has_an_empty_log(redis: Redis) -> None:
    (found,) = UserLog(redis, SMALL).read([LogWant("nobody", 10)])
    assert found.position == Position(0, 0)
    assert len(found.events) == 0


@pytest.mark.parametrize("batch", [1, 7, 300])
@pytest.mark.parametrize(
    "config", [SMALL, LogConfig(length=1, slack=0, tags=1), LogConfig(length=70, slack=9)], ids=str
)
def test_the_newest_events_come_back_oldest_first(redis: Redis, config: LogConfig, batch: int) -> None:
    log = UserLog(redis, config)
    for start in range(0, 300, batch):
        end = min(start + batch, 300)
        store(redis, config, start, end)
        for length in {1, config.length // 2, config.length}:
            (found,) = log.read([LogWant("u", length)])
            assert found.position.count == end
            assert numbers(found) == list(range(max(0, end - length), end))


def test_every_position_is_read_as_it_was_or_is_overwritten(redis: Redis) -> None:
    log, length = UserLog(redis, SMALL), SMALL.length
    seen = []
    for n in range(150):
        store(redis, SMALL, n, n + 1)
        seen += log.read([LogWant("u", length)])
    then = log.read_as_of([LogWantAsOf("u", s.position, length) for s in seen])
    for was, now in zip(seen, then, strict=True):
        if max(0, was.position.count - length) >= 150 - SMALL.capacity:
            assert isinstance(now, LogSlice)
            assert now.events.tobytes() == was.events.tobytes()
            assert now.position == was.position
        else:
            assert now == LogGone("overwritten")
    assert sum(isinstance(now, LogSlice) for now in then) == SMALL.slack + 1


def test_a_position_without_a_log_is_read_as_empty_whatever_came_since(redis: Redis) -> None:
    store(redis, SMALL, 0, 3)
    (found,) = UserLog(redis, SMALL).read_as_of([LogWantAsOf("u", Position(0, 0), 10)])
    assert numbers(found) == []


def test_a_log_that_is_gone_says_why(redis: Redis) -> None:
    log = UserLog(redis, SMALL)
    store(redis, SMALL, 0, 3)
    position = log.read([LogWant("u", 10)])[0].position

    def as_of(at: Position) -> LogSlice | LogGone:
        return log.read_as_of([LogWantAsOf("u", at, 10)])[0]

    assert numbers(as_of(position)) == [0, 1, 2]
    assert as_of(Position(position.generation, 4)) == LogGone("ahead")
    forget_user(redis, "u")
    assert as_of(position) == LogGone("expired")
    store(redis, SMALL, 0, 5)
    assert as_of(position) == LogGone("recreated")


def test_a_log_grows_by_steps_of_exact_size(redis: Redis) -> None:
    config = LogConfig(length=400, slack=20, tags=64)
    steps = growth_steps(config)
    assert steps[-1] == 420
    seen = []
    for n in range(430):
        store(redis, config, n, n + 1)
        stored = redis.get(log_key("u"))
        assert isinstance(stored, bytes)
        header = decode_header(stored[:24])
        assert len(stored) == 24 + 8 * header.tags + 16 * header.capacity
        assert header.count == n + 1
        seen.append(header.capacity)
    assert tuple(dict.fromkeys(seen)) == steps


def test_a_larger_capacity_is_taken_up(redis: Redis) -> None:
    store(redis, SMALL, 0, 40)
    larger = LogConfig(length=200, slack=20, tags=16)
    before = UserLog(redis, larger).read([LogWant("u", 200)])[0].position
    store(redis, larger, 40, 300)
    (found,) = UserLog(redis, larger).read([LogWant("u", 200)])
    assert numbers(found) == list(range(100, 300))
    assert found.position == Position(before.generation, 300), "it had not wrapped: nothing is lost"


def test_a_wrapped_log_made_larger_starts_a_new_generation(redis: Redis) -> None:
    store(redis, SMALL, 0, 100)
    larger = LogConfig(length=200, slack=20, tags=16)
    log = UserLog(redis, larger)
    before = log.read([LogWant("u", 200)])[0].position
    store(redis, larger, 99, 101)
    (found,) = log.read([LogWant("u", 200)])
    assert numbers(found) == list(range(40, 101))
    assert found.position.count == SMALL.capacity + 1
    assert log.read_as_of([LogWantAsOf("u", before, 10)]) == [LogGone("recreated")]


def test_a_length_above_the_configured_one_is_refused(redis: Redis) -> None:
    log = UserLog(redis, SMALL)
    with pytest.raises(ValueError, match=r"length must be in 0\.\.40, got 41"):
        log.read([LogWant("u", 41)])
    with pytest.raises(ValueError, match=r"length must be in 0\.\.40, got -1"):
        log.read_as_of([LogWantAsOf("u", Position(1, 1), -1)])


def test_a_log_lives_as_long_as_its_last_event(redis: Redis) -> None:
    config = LogConfig(length=4, slack=1, ttl_s=1000)
    store(redis, config, 0, 1)
    redis.expire(log_key("u"), 10)
    store(redis, config, 1, 2)
    assert 990 < redis.ttl(log_key("u")) <= 1000
