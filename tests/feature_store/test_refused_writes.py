"""A server that refuses writes, at any moment: of a batch either all is there, its offsets too, or nothing."""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from feature_store import JoinConfig, Joiner, LogConfig
from feature_store.facts import ServedFact
from feature_store.keys import join_key
from tests.feature_store.facts import T0
from tests.feature_store.servers import Server

PLACE = ("ranking.served", 0)
USERS = 40
BLOB = bytes(100_000)


def batch(number: int, blob: bytes = BLOB) -> list[ServedFact]:
    """Makes a batch with a user of its own for each fact; no other batch has these users."""
    return [ServedFact(f"r{number}-{n}", f"u{number}-{n}", T0, ("a",), blob) for n in range(USERS)]


def stored(redis: Redis, facts: Sequence[ServedFact]) -> int:
    return sum(redis.exists(join_key(fact.user)) for fact in facts)


@pytest.fixture(autouse=True)
def _healed(redis: Redis) -> Iterator[None]:
    yield
    redis.config_set("maxmemory", 0)
    redis.config_set("min-replicas-to-write", 0)


def test_a_batch_that_does_not_fit_is_there_or_is_not(redis: Redis) -> None:
    joiner = Joiner(redis, LogConfig(length=64, slack=16), JoinConfig())
    joiner.apply(batch(0), {PLACE: 1})
    outcomes = set()
    for number, room in enumerate([-1_000_000, 10_000, 500_000, 1_000_000, 2_000_000, 3_000_000, 6_000_000], start=1):
        facts = batch(number)
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] + room)
        try:
            joiner.apply(facts, {PLACE: number + 1})
            applied = True
        except OutOfMemoryError:
            applied = False
        redis.config_set("maxmemory", 0)
        outcomes.add(applied)
        assert stored(redis, facts) == (USERS if applied else 0)
        assert (joiner.offsets()[PLACE] == number + 1) == applied
    assert outcomes == {True, False}


def test_refusals_that_come_and_go_leave_no_half_batch(server: Server, redis: Redis) -> None:
    joiner = Joiner(redis, LogConfig(length=64, slack=16), JoinConfig())
    refused = taken = 0
    with coming_and_going(server):
        for number in itertools.count(1):
            facts = batch(number, b"blob")
            while True:
                try:
                    joiner.apply(facts, {PLACE: number})
                    break
                except RedisError:
                    refused += 1
                    assert stored(redis, facts) == 0
                    assert joiner.offsets().get(PLACE, 0) == number - 1
            taken += 1
            assert stored(redis, facts) == USERS
            assert joiner.offsets()[PLACE] == number
            if refused > 20 and taken > 20:
                break


@contextmanager
def coming_and_going(server: Server) -> Iterator[None]:
    stop = threading.Event()

    def turn() -> None:
        with Redis(port=server.port) as other:
            for setting, value in itertools.cycle([("maxmemory", 1), ("min-replicas-to-write", 1)]):
                if stop.is_set():
                    return
                other.config_set(setting, value)
                time.sleep(0.003)
                other.config_set(setting, 0)
                time.sleep(0.003)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
