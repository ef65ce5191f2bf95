"""An event delivered twice is stored once, as far as the stated horizon reaches."""

from typing import cast

import pytest
from redis import Redis

from feature_store import Fact, JoinConfig, Joiner, LogConfig, LogWant, Position, Reply, UserLog
from feature_store.keys import event_tag, log_key
from tests.feature_store.facts import action, impression, served

LOG = LogConfig(length=60, slack=4, tags=8)


def joiner(redis: Redis) -> Joiner:
    return Joiner(redis, LOG, JoinConfig())


def append(redis: Redis, *numbers: int) -> list[Reply]:
    return joiner(redis).apply([action(f"e{n}", "log", names=None) for n in numbers], {})


def test_within_the_horizon_the_first_position_comes_back(redis: Redis) -> None:
    first = append(redis, *range(30))
    assert [r.position.count for r in first if r.position] == list(range(1, 31))
    again = append(redis, *range(22, 30))
    assert [(r.stored, r.position) for r in again] == [(False, r.position) for r in first[22:]]
    assert UserLog(redis, LOG).read([LogWant("u", 60)])[0].position.count == 30


def test_beyond_the_horizon_an_event_is_stored_again(redis: Redis) -> None:
    append(redis, *range(30))
    (reply,) = append(redis, 21)
    assert reply.stored
    assert reply.position is not None
    assert reply.position.count == 31


def test_beyond_the_horizon_an_event_known_by_its_offset_is_not_stored_again(redis: Redis) -> None:
    """What it labelled the first time it labels again, and nothing else."""
    join = joiner(redis)
    facts: list[Fact] = [served(), impression(), action("c", at=1), action("v", "conversion", at=2)]
    first = join.apply(facts, {})
    append(redis, *range(30))
    again = join.apply(facts, {}, known=range(len(facts)))
    assert [(r.stored, r.labels, r.outcome) for r in again] == [(False, r.labels, r.outcome) for r in first]
    assert UserLog(redis, LOG).read([LogWant("u", 60)])[0].position.count == 33
    fresh, known = join.apply([action("new", "log", names=None), action("e1", "log", names=None)], {}, known=[1])
    assert (fresh.stored, known.stored) == (True, False)


@pytest.mark.parametrize("batch", [(5, 5), (5, *range(100, 107), 5), (1, 2, 1, 2)], ids=str)
def test_twice_in_one_batch_is_stored_once(redis: Redis, batch: tuple[int, ...]) -> None:
    replies = append(redis, *batch)
    assert sum(r.stored for r in replies) == len(set(batch))
    assert replies[-1].position == replies[batch.index(batch[-1])].position


def test_beyond_the_horizon_in_one_batch_is_stored_again(redis: Redis) -> None:
    assert all(r.stored for r in append(redis, 5, *range(100, 108), 5))


def test_beyond_the_horizon_an_event_labels_nothing_anew(redis: Redis) -> None:
    join = joiner(redis)
    facts: list[Fact] = [served(), impression(), action("c", at=1), action("v", "conversion", at=2)]
    first = join.apply(facts, {})
    append(redis, *range(20))
    assert [(r.labels, r.outcome) for r in join.apply(facts, {})] == [(r.labels, r.outcome) for r in first]


def test_the_horizon_survives_growth(redis: Redis) -> None:
    config = LogConfig(length=200, slack=0, tags=100)
    for n in range(150):
        fact = action(f"e{n}", "log", names=None)
        (first,) = Joiner(redis, config, JoinConfig()).apply([fact], {})
        oldest = action(f"e{max(0, n - 99)}", "log", names=None)
        (again,) = Joiner(redis, config, JoinConfig()).apply([oldest], {})
        assert first.position is not None
        assert again.position == Position(first.position.generation, max(1, n - 98))
        assert not again.stored


def test_a_tag_is_found_only_where_a_tag_begins(redis: Redis) -> None:
    """Two neighbours in the ring hold, across their border, the bytes of a third event's tag."""
    log = UserLog(redis, LOG)
    append(redis, 1, 2)
    stored = bytearray(cast(bytes, redis.get(log_key("u"))))
    tag = event_tag("e3")
    stored[24 + 4 : 24 + 12] = tag
    redis.set(log_key("u"), bytes(stored))
    (reply,) = append(redis, 3)
    assert reply.stored
    assert log.read([LogWant("u", 60)])[0].position.count == 3
