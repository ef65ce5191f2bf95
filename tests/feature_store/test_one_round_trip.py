"""What a batch costs on the wire, and what happens where the server has lost the functions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from redis import Connection, ConnectionPool, Redis
from redis.exceptions import ResponseError

from feature_store import Fact, JoinConfig, Joiner, LogConfig, LogWant, LogWantAsOf, UserLog
from feature_store.forget import forget_user
from feature_store.keys import log_key
from tests.feature_store.facts import T0, action, impression, served
from tests.feature_store.servers import Server

LOG = LogConfig(length=32, slack=8)
BATCH: list[Fact] = [
    fact
    for n in range(50)
    for fact in (served(f"r{n}", user=f"u{n}"), impression(f"i{n}", response=f"r{n}", user=f"u{n}"))
]


class CountingConnection(Connection):
    """Counts what is sent before an answer is awaited."""

    sent = 0

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        type(self).sent += 1
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]


@pytest.fixture
def counting(server: Server, redis: Redis) -> Iterator[Redis]:
    """A second client of the emptied server, that counts its round trips."""
    client = Redis(connection_pool=ConnectionPool(connection_class=CountingConnection, port=server.port))
    client.ping()
    yield client
    client.close()


@contextmanager
def counted(redis: Redis) -> Iterator[dict[str, int]]:
    """The commands that the server was sent, and in how many round trips."""
    seen: dict[str, int] = {}
    redis.config_resetstat()
    CountingConnection.sent = 0
    yield seen
    seen["round trips"] = CountingConnection.sent
    stats = cast(dict[str, dict[str, int]], redis.info("commandstats"))
    seen |= {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}


def test_a_batch_is_one_transaction_in_one_round_trip(counting: Redis) -> None:
    join = Joiner(counting, LOG, JoinConfig())
    join.apply([action("warm", "log", names=None)], {})
    with counted(counting) as seen:
        join.apply(BATCH, {("ads.impressions", 0): 50})
    assert (seen["multi"], seen["fcall"], seen["exec"], seen["round trips"]) == (1, 51, 1, 1)


def test_the_logs_of_a_batch_are_read_in_one_round_trip(counting: Redis) -> None:
    join, log = Joiner(counting, LOG, JoinConfig()), UserLog(counting, LOG)
    join.apply(BATCH, {})
    with counted(counting) as seen:
        slices = log.read([LogWant(f"u{n}", 10) for n in range(50)])
    assert (seen["fcall_ro"], seen["round trips"]) == (50, 1)
    with counted(counting) as seen:
        log.read_as_of([LogWantAsOf(f"u{n}", slices[n].position, 10) for n in range(50)])
    assert (seen["fcall_ro"], seen["round trips"]) == (50, 1)


@pytest.mark.parametrize("flush", ["FUNCTION FLUSH", "FLUSHALL", "both"])
def test_functions_that_the_server_lost_are_loaded_again(redis: Redis, flush: str) -> None:
    join, log = Joiner(redis, LOG, JoinConfig()), UserLog(redis, LOG)
    join.apply(BATCH, {("t", 0): 1})
    if flush != "FLUSHALL":
        redis.function_flush()
    if flush != "FUNCTION FLUSH":
        redis.flushall()
    assert len(log.read([LogWant("u1", 5)])[0].events) == (1 if flush == "FUNCTION FLUSH" else 0)
    redis.function_flush()
    replies = join.apply(BATCH, {("t", 0): 100})
    assert [r.stored for r in replies[:2]] == [flush != "FUNCTION FLUSH"] * 2
    redis.function_flush()
    closed = join.sweep(T0 + 10**9, limit=10**6)
    assert sum(len(one.labels) for one in closed) == 50
    redis.function_flush()
    join.settle(closed)
    redis.function_flush()
    forget_user(redis, "u1")
    assert redis.exists(log_key("u1")) == 0


def test_a_batch_that_fails_moves_no_offset(redis: Redis) -> None:
    join = Joiner(redis, LOG, JoinConfig())
    join.apply([], {("t", 0): 1})
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(ResponseError, match="maxmemory"):
            join.apply(BATCH, {("t", 0): 100})
    finally:
        redis.config_set("maxmemory", 0)
    assert join.offsets() == {("t", 0): 1}
    assert redis.exists(log_key("u1")) == 0


def test_a_log_of_another_layout_is_refused(redis: Redis) -> None:
    redis.set(log_key("u"), bytes([9]) + bytes(23))
    with pytest.raises(ResponseError, match="log layout version 9 found, 1 understood"):
        UserLog(redis, LOG).read([LogWant("u", 1)])


def test_old_and_new_libraries_stand_side_by_side(server: Server, redis: Redis) -> None:
    old = "#!lua name=tiderank_old\nredis.register_function('apply_old', function() return 'old' end)"
    redis.function_load(old)
    Joiner(redis, LOG, JoinConfig()).apply(BATCH, {})
    assert redis.fcall("apply_old", 0) == b"old"
