"""kill -9 of the server at any point: from the stored offsets on, applying again gives the same state and labels."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from redis import Redis

from feature_store import Fact, JoinConfig, Joiner, LogConfig, example_id
from tests.feature_store.facts import MINUTE, T0, action, impression, served
from tests.feature_store.servers import Server, find_servers

LOG = LogConfig(length=64, slack=16)
CONFIG = JoinConfig()
PLACE = ("events", 0)


@pytest.fixture(params=["redis", "valkey"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own."""
    program = find_servers()[request.param]
    if program is None:
        pytest.skip(f"no {request.param} server here: put redis-server on the PATH or name it in TIDERANK_REDIS_SERVER")
    server = Server(program, tmp_path)
    server.start()
    yield server
    server.stop()


def history() -> list[Fact]:
    """Responses of 30 users; every third impression is clicked, every ninth converts."""
    facts: list[Fact] = []
    for n in range(300):
        user, response, shown = f"u{n % 30}", f"r{n}", f"i{n}"
        facts += [served(response, user=user, at=n), impression(shown, response=response, user=user, at=n)]
        if n % 3 == 0:
            facts.append(action(f"c{n}", names=shown, user=user, at=n + 5))
        if n % 9 == 0:
            facts.append(action(f"v{n}", "conversion", names=shown, user=user, at=n + 9, value=n))
    return facts


def apply_from(join: Joiner, facts: Sequence[Fact], until: int) -> None:
    """As ingest does: from the stored offset on, in batches."""
    at = join.offsets().get(PLACE, 0)
    while at < until:
        end = min(at + 37, until)
        join.apply(facts[at:end], {PLACE: end})
        at = end


def contents(redis: Redis) -> dict[bytes, object]:
    """All keys with their values, less what is drawn at random (generations)."""
    found: dict[bytes, object] = {}
    for key in cast(list[bytes], redis.keys("*")):
        kind = redis.type(key)
        if kind == b"string":
            stored = cast(bytes, redis.get(key))
            found[key] = stored[:8] + stored[16:]
        elif kind == b"hash":
            found[key] = {f: _canonical(v) for f, v in cast(dict[bytes, bytes], redis.hgetall(key)).items()}
        else:
            found[key] = redis.zrange(key, 0, -1, withscores=True)
    return found


def _canonical(stored: bytes) -> object:
    """Maps are packed in no order that means anything."""
    return sorted(stored)


def test_killed_redis_is_the_same_after_applying_again(mortal: Server, tmp_path: Path) -> None:
    facts = history()
    join = Joiner(mortal.redis, LOG, CONFIG)
    apply_from(join, facts, 250)
    time.sleep(1.2)  # everysec: this much is on disk
    apply_from(join, facts, len(facts))
    mortal.kill()
    mortal.start()
    assert join.offsets()[PLACE] >= 250
    apply_from(join, facts, len(facts))
    survived = contents(mortal.redis)

    mortal.redis.flushall()
    apply_from(join, facts, len(facts))
    assert survived == contents(mortal.redis)


def test_a_batch_half_written_to_disk_is_not_there_at_all(mortal: Server, tmp_path: Path) -> None:
    facts = history()
    join = Joiner(mortal.redis, LOG, CONFIG)
    apply_from(join, facts, 74)
    mortal.stop()
    (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(log.read_bytes()[:-200])  # the end of the last transaction
    mortal.start()
    assert join.offsets() == {PLACE: 37}
    apply_from(join, facts, 74)
    survived = contents(mortal.redis)
    mortal.redis.flushall()
    apply_from(join, facts, 74)
    assert survived == contents(mortal.redis)


def test_killed_between_sweep_and_settle_the_same_examples_come_again(mortal: Server) -> None:
    apply_from(Joiner(mortal.redis, LOG, CONFIG), history(), 500)
    late = T0 + 11 * MINUTE
    first = Joiner(mortal.redis, LOG, CONFIG).sweep(late, limit=10_000)
    labels = {example_id(label): label for one in first for label in one.labels}
    assert len(labels) > 50
    mortal.kill()
    mortal.start()
    join = Joiner(mortal.redis, LOG, CONFIG)
    again = join.sweep(late, limit=10_000)
    assert {example_id(label): label for one in again for label in one.labels} == labels
    join.settle(again)
    assert join.sweep(late, limit=10_000) == []


def test_a_sweep_is_limited_and_goes_on_where_it_stopped(mortal: Server) -> None:
    apply_from(Joiner(mortal.redis, LOG, CONFIG), history(), 500)
    join, late = Joiner(mortal.redis, LOG, CONFIG), T0 + 11 * MINUTE
    shown = []
    while closed := join.sweep(late, limit=40):
        assert len(closed) <= 40
        shown += [label.impression_ms for one in closed for label in one.labels]
        join.settle(closed)
    assert len(shown) == len(set(shown)) > 100
    assert shown == sorted(shown), "the earliest first"
