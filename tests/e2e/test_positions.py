"""What a worker reads first is what it said it would: told by what was read, never by what was logged."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_store import LogWant, UserLog
from feature_store.keys import OFFSETS, log_key
from streams.kafka.connection import topic_partitions
from streams.kafka.scan import committed, ends
from streams.local.kafka import why_not
from streams.local.process import Child
from streams.runtime.redis_client import connect
from streams.wire.topics import CONVERSIONS
from streams.workers.ingest import worker as ingest
from tests.e2e.running import House, running
from tests.streams.group_offsets import delete_group, move_group, move_group_to_the_end

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"needs offsets that survive their group: {why_not()}"),
]

PATIENCE_S = 60.0
USERS = 20


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with running(tmp_path, ["ingest"], broker="kafka") as up:
        yield up


def search(house: House, prefix: str) -> list[str]:
    """Sends a search of each of some users; returns their names once the broker has them."""
    users = [f"{prefix}-{i}" for i in range(USERS)]
    send(house, [(f"e-{user}", user) for user in users])
    return users


def send(house: House, searches: list[tuple[str, str]]) -> None:
    """searches: the event's id and its user."""
    producer = house.kafka.producer()
    for name, user in searches:
        event = {"event_id": name, "user": user, "kind": "search", "item": "ad-1", "event_ms": now_ms()}
        producer.produce(CONVERSIONS, json.dumps(event), key=user)
    assert producer.flush(10) == 0


def now_ms() -> int:
    return int(time.time() * 1000)


def await_logs(house: House, users: list[str]) -> None:
    redis, deadline = connect(house.stack.redis_url), time.monotonic() + PATIENCE_S
    while missing := [user for user in users if not redis.exists(log_key(user))]:
        assert time.monotonic() < deadline, f"{len(missing)} of {len(users)} events were never read"
        time.sleep(0.1)


def await_committed(house: House) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while committed(house.kafka, ingest.GROUP, CONVERSIONS) != {
        p: high for p, (_, high) in ends(house.kafka, CONVERSIONS).items()
    }:
        assert time.monotonic() < deadline, "the group never committed what it had read"
        time.sleep(0.1)


def child(house: House) -> Child:
    return house.workers["ingest"].child


def restart(house: House) -> None:
    child(house).start()
    house.workers["ingest"].await_ready()


def test_what_an_emptied_redis_forgot_is_read_again(house: House) -> None:
    users = search(house, "before")
    await_logs(house, users)
    await_committed(house)
    child(house).stop()
    connect(house.stack.redis_url).flushall()
    restart(house)
    await_logs(house, users)


def test_a_group_moved_by_an_operator_skips_nothing(house: House) -> None:
    await_logs(house, search(house, "before"))
    child(house).stop()
    users = search(house, "moved")
    move_group_to_the_end(house.kafka, ingest.GROUP, CONVERSIONS)
    restart(house)
    await_logs(house, users)


def test_a_group_moved_back_stores_nothing_twice(house: House) -> None:
    """Not even of a user who has more events than the log has tags to tell them by."""
    count = 2 * house.settings.recipe.log.tags
    send(house, [(f"e-{i}", "one") for i in range(count)])
    await_committed(house)
    assert stored(house, "one") == count
    child(house).stop()
    move_group(house.kafka, ingest.GROUP, {(CONVERSIONS, p): 0 for p in ends(house.kafka, CONVERSIONS)})
    restart(house)
    await_logs(house, search(house, "after"))
    await_committed(house)
    assert stored(house, "one") == count


def test_a_group_that_was_deleted_stores_nothing_twice(house: House) -> None:
    count = 2 * house.settings.recipe.log.tags
    send(house, [(f"e-{i}", "one") for i in range(count)])
    await_committed(house)
    child(house).stop()
    delete_group(house.kafka, ingest.GROUP)
    restart(house)
    await_logs(house, search(house, "after"))
    await_committed(house)
    assert stored(house, "one") == count


def test_what_can_no_longer_be_read_again_is_missed(house: House) -> None:
    """Redis has forgotten, and retention has taken what it would be filled from."""
    await_logs(house, search(house, "before"))
    await_committed(house)
    child(house).stop()
    connect(house.stack.redis_url).flushall()
    gone = {place: end for place, (_, end) in ends(house.kafka, CONVERSIONS).items()}
    admin = house.kafka.admin()
    for done in admin.delete_records(topic_partitions({(CONVERSIONS, p): end for p, end in gone.items()})).values():
        done.result(PATIENCE_S)
    restart(house)
    await_logs(house, [user for n in range(5) for user in search(house, f"after-{n}")])  # some of every partition
    said = (house.home / "logs" / "ingest-local.log").read_text()
    assert said.count("were deleted before they were read") == sum(end > 0 for end in gone.values())


def stored(house: House, user: str) -> int:
    log = UserLog(connect(house.stack.redis_url), house.settings.recipe.log)
    return log.read([LogWant(user, 1)])[0].position.count


def test_what_redis_forgot_while_ingest_runs_is_read_again(house: House) -> None:
    """By the path of a reconnect: the same process seeks."""
    users = search(house, "before")
    await_logs(house, users)
    await_committed(house)
    redis = connect(house.stack.redis_url)
    redis.flushall()
    redis.client_kill_filter(_type="normal", skipme=True)
    assert redis.hgetall(OFFSETS) == {}
    await_logs(house, [*users, *search(house, "after")])
