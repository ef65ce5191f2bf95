"""What is said of an outage, and how long pauses are (the clock is the test's); what is said of a Redis at a start."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from streams.errors import StartError
from streams.runtime.outage import CALM_S, LONGEST_PAUSE_S, REMIND_S, Outage, RedisOutage
from streams.runtime.redis_client import reason_of, warn_of_eviction
from tests.feature_store.servers import Server, find_servers


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    program = next(program for program in find_servers().values() if program is not None)
    server = Server(program, tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO)
    return Clock()


def fail_for(outage: Outage, clock: Clock, seconds: float, kind: str = "OOM") -> list[float]:
    """The pauses, each waited for."""
    pauses, until = [], clock.now_s + seconds
    while clock.now_s < until:
        pauses.append(outage.failed(kind, "no room"))
        clock.now_s += pauses[-1]
    return pauses


def test_pauses_grow_to_a_bound_and_begin_anew_after_it_is_over(clock: Clock) -> None:
    outage = Outage("redis", "all waits", clock=clock)
    assert fail_for(outage, clock, 12)[:6] == [0.2, 0.4, 0.8, 1.6, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    outage.worked()
    clock.now_s += CALM_S
    outage.worked()
    assert outage.failed("OOM", "no room") == 0.2


def test_one_line_when_it_begins_one_a_minute_and_one_when_it_is_over(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage("redis", "all waits", clock=clock)
    fail_for(outage, clock, 2.5 * REMIND_S)
    for _ in range(100):
        outage.worked()
        clock.now_s += 0.1
    begin, first, second, end = caplog.messages
    assert begin == "redis: no room; all waits until that is over"
    assert first.startswith("redis: for 6")
    assert second.startswith("redis: for 12")
    assert end.startswith("redis: well again after 15")


def test_a_server_that_refuses_every_second_call_is_not_well(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("redis", "all waits", clock=clock)
    pauses = []
    for _ in range(100):
        pauses.append(outage.failed("TimeoutError", "timeout"))
        clock.now_s += 0.2
        outage.worked()
        clock.now_s += 0.2
    assert pauses[-1] == LONGEST_PAUSE_S
    assert len(caplog.messages) == 1


def test_another_kind_of_failure_is_said_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("redis", "all waits", clock=clock)
    for kind in ("ConnectionError", "READONLY") * 10:
        fail_for(outage, clock, 0.1, kind)
    assert len(caplog.messages) == 2


def test_what_works_all_along_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("redis", "all waits", clock=clock)
    for _ in range(10):
        outage.worked()
        clock.now_s += 1.0
    assert caplog.messages == []


def test_what_waiting_does_not_mend_is_not_waited_for() -> None:
    with pytest.raises(StartError, match="access redis"):
        RedisOutage("test", "all waits").failed_of(NoPermissionError("no permissions"))


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "OOM", "maxmemory"),
        (ReadOnlyError("You can't write against a read only replica."), "READONLY", "TIDERANK_REDIS_URL"),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF", "disk"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), "NOREPLICAS", "min-replicas-to-write"),
        (RedisConnectionError("Error 111 connecting"), "ConnectionError", "Error 111"),
    ],
)
def test_redis_own_word_and_what_to_do_are_said_and_no_command(error: RedisError, kind: str, says: str) -> None:
    assert reason_of(error)[0] == kind
    wrapped = type(error)(f"Command # 1 (FCALL apply 3 log:alice) of pipeline caused error: {error}")
    assert reason_of(wrapped) == reason_of(error)
    assert says in reason_of(error)[1]
    assert "alice" not in reason_of(wrapped)[1]


@pytest.mark.parametrize(
    ("policy", "max_bytes", "says"),
    [("allkeys-lru", 10**9, "allkeys-lru"), ("noeviction", 10**9, ""), ("allkeys-lru", 0, "")],
)
def test_a_redis_that_drops_keys_is_warned_of(
    server: Server, caplog: pytest.LogCaptureFixture, policy: str, max_bytes: int, says: str
) -> None:
    server.redis.config_set("maxmemory-policy", policy)
    server.redis.config_set("maxmemory", max_bytes)
    warn_of_eviction(server.redis)
    assert [record.levelname for record in caplog.records] == (["WARNING"] if says else [])
    assert says in caplog.text


def test_where_it_cannot_be_asked_that_is_said_and_no_more(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """As a managed one may be, or an older list of rights."""
    caplog.set_level(logging.INFO)
    server.redis.acl_setuser("poor", enabled=True, nopass=True, commands=["+ping"])
    warn_of_eviction(Redis(port=server.port, username="poor", password="any"))
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "unknown" in caplog.text
