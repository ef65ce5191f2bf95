"""`tiderank user` against a house whose ingest and rewards workers run: forgotten is forgotten, rebuilt is what was."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis

from feature_store import Joiner, LogWant, UserLog
from feature_store.rebuild import WholeLog, read_whole
from streams.cli import cli
from streams.kafka.scan import ends, read_topic
from streams.local.kafka import why_not
from streams.runtime.redis_client import connect
from streams.user.rebuild import rebuild
from streams.wire.codec import decode, encode
from streams.wire.messages import Conversion, Decision, Impression, LogRef, ModelVersion, Served, ServedItem
from streams.wire.topics import CONVERSIONS, DECISIONS, EXAMPLES, HOUR_MS, IMPRESSIONS, SERVED, TOPICS
from streams.workers.ingest.worker import INPUTS
from tests.e2e.running import House, check_alive, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"the logs of a user need a real Kafka: {why_not()}"),
]

RECIPE = """
base = "demo"
[join]
click_window_ms = 600000
attribution_window_ms = 3600000
[routing]
reward_window_ms = 600000
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("user"), ["ingest", "rewards"], broker="kafka", recipe=RECIPE) as up:
        yield up
        check_alive(up)


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4().hex}"


class Sender:
    """Produces what a user's pages and clicks make."""

    def __init__(self, house: House) -> None:
        self._producer = house.kafka.producer()

    def page(self, user: str, number: int, after_each: Callable[[], None] = lambda: None) -> None:
        """One response with its decision, an impression, a click on it, and a search."""
        now_ms, response = int(time.time() * 1000), f"r{number}-{user}"
        shown = f"i{number}-{user}"
        for topic, message in (
            (SERVED, _served(user, response, now_ms)),
            (DECISIONS, _decision(user, response, now_ms)),
            (
                IMPRESSIONS,
                Impression(
                    event_id=shown, user=user, response_id=response, item="ad", position=0, event_ms=now_ms + number
                ),
            ),
            (
                CONVERSIONS,
                Conversion(
                    event_id=f"c{number}-{user}",
                    user=user,
                    kind="click",
                    impression_id=shown,
                    event_ms=now_ms + number,
                ),
            ),
            (
                CONVERSIONS,
                Conversion(
                    event_id=f"s{number}-{user}", user=user, kind="search", item=f"{number}", event_ms=now_ms + number
                ),
            ),
        ):
            self._producer.produce(topic, encode(TOPICS[topic], message), user)
            self._producer.flush(10)
            after_each()

    def again(self, user: str, number: int) -> None:
        """The click of a page, delivered a second time."""
        message = Conversion(event_id=f"c{number}-{user}", user=user, kind="click", event_ms=int(time.time() * 1000))
        self._producer.produce(CONVERSIONS, encode(TOPICS[CONVERSIONS], message), user)
        self._producer.flush(10)


def _served(user: str, response: str, now_ms: int) -> Served:
    return Served(
        response_id=response,
        request_id=response,
        user=user,
        surface="page",
        event_ms=now_ms,
        log=LogRef(),
        features={},
        context={},
        items=[ServedItem(item="ad")],
        plan="light",
        tier="light",
        model=ModelVersion(epoch=1, number=1),
    )


def _decision(user: str, response: str, now_ms: int) -> Decision:
    return Decision(
        response_id=response,
        user=user,
        event_ms=now_ms,
        plan="light",
        probabilities={"light": 1.0},
        values={"light": 0.1},
        costs={"light": 1.0},
        measured_ms=1.0,
        price=0.1,
        context={},
        router_number=0,
    )


def await_ingest(house: House) -> None:
    """Waits until all that was produced is in Redis."""
    joiner = Joiner(connect(house.stack.redis_url), house.settings.recipe.log, house.settings.recipe.join)
    wanted = {(topic, p): end for topic in INPUTS for p, (_, end) in ends(house.kafka, topic).items() if end}
    deadline = time.monotonic() + 30
    while any(joiner.offsets().get(place, 0) < end for place, end in wanted.items()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def await_decisions(house: House, user: str, count: int) -> None:
    deadline = time.monotonic() + 30
    with Redis.from_url(house.stack.redis_url) as redis:
        while sum(user.encode() in (redis.hget(key, "d") or b"") for key in redis.keys("rw:{main}:r:*")) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def whole_log(house: House, user: str) -> WholeLog:
    return read_whole(connect(house.stack.redis_url), user, house.settings.recipe.log)


def command(house: House, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(
        cli,
        ["user", *arguments, "--json"],
        env={"TIDERANK_BOOTSTRAP": house.stack.bootstrap, "TIDERANK_REDIS_URL": house.stack.redis_url},
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def said(house: House, *arguments: str) -> str:
    environment = {"TIDERANK_BOOTSTRAP": house.stack.bootstrap, "TIDERANK_REDIS_URL": house.stack.redis_url}
    return CliRunner().invoke(cli, ["user", *arguments], env=environment, catch_exceptions=False).output


def everything(redis: Redis) -> Iterator[Any]:
    """Every name and every value in Redis, but for the logs' own bytes, which hold no name."""
    for key in redis.keys("*"):
        yield key
        match redis.type(key):
            case b"hash":
                yield from (text for pair in redis.hgetall(key).items() for text in pair)
            case b"zset":
                yield from redis.zrange(key, 0, -1)


def test_a_user_forgotten_is_nowhere_in_redis_and_kafkas_part_is_told(house: House, user: str) -> None:
    sender = Sender(house)
    for number in range(4):
        sender.page(user, number)
        sender.page(f"other-{user[:8]}", number)
    await_ingest(house)
    await_decisions(house, user, 4)
    began_ms = int(time.time() * 1000)
    report = command(house, "forget", user)
    with Redis.from_url(house.stack.redis_url) as redis:
        assert not [text for text in everything(redis) if user.encode() in text]
        assert any(f"other-{user[:8]}".encode() in text for text in everything(redis))
    assert report["redis"] == {"events": 12, "served": 4, "impressions": 4, "actions": 0, "timers": 0}
    assert report["decisions"] == 4
    kafka = {row["topic"]: row for row in report["kafka"]}
    counts = {SERVED: 4, IMPRESSIONS: 4, CONVERSIONS: 8, DECISIONS: 4, "training.examples": 4, "ranking.requests": 0}
    assert {topic: kafka[topic]["records"] for topic in counts} == counts
    assert kafka[SERVED]["kept_ms"] == 8 * 24 * HOUR_MS  # a week, and the day that a segment may hold
    assert kafka[SERVED]["oldest_ms"] <= kafka[SERVED]["newest_ms"] <= began_ms
    assert kafka[SERVED]["gone_ms"] == kafka[SERVED]["newest_ms"] + kafka[SERVED]["kept_ms"]
    again = command(house, "forget", user, "--no-scan")
    assert not any(again["redis"].values())
    assert again["decisions"] == 0
    assert {row["records"] for row in again["kafka"]} == {None}


def test_of_an_unknown_user_it_says_so(house: House) -> None:
    text = said(house, "forget", "nobody")
    assert "Redis held nothing of 'nobody'" in text
    assert "ads.impressions      nothing" in text
    assert "stop sending the user's events, then forget once more" in text
    assert "'nobody' has no log" in said(house, "show", "nobody")
    assert "nothing was missing: the log holds 0 events" in said(house, "rebuild", "nobody")


def test_rebuilt_after_being_forgotten_a_log_is_what_it_was(house: House, user: str) -> None:
    sender = Sender(house)
    for number in range(5):
        # Ingest may take what comes at the same time from two topics in either order.
        sender.page(user, number, after_each=lambda: await_ingest(house))
    sender.again(user, 0)
    await_ingest(house)
    before = whole_log(house, user)
    assert len(before.records) == 15
    command(house, "forget", user, "--no-scan")
    done = command(house, "rebuild", user)
    after = whole_log(house, user)
    assert after.records == before.records
    assert (done["changed"], done["events"], done["held_before"], done["held"]) == (True, 15, 0, 15)
    assert done["generation"] == after.position.generation != before.position.generation
    assert done["count"] == 15


def test_over_a_log_that_is_there_nothing_is_stored_twice(house: House, user: str) -> None:
    sender = Sender(house)
    for number in range(3):
        sender.page(user, number)
    await_ingest(house)
    before = whole_log(house, user)
    assert command(house, "rebuild", user)["changed"] is False
    assert whole_log(house, user) == before
    command(house, "forget", user, "--no-scan")
    sender.page(user, 3)  # after it was forgotten: a new log
    await_ingest(house)
    assert len(whole_log(house, user).records) == 3
    assert command(house, "rebuild", user)["held"] == 12
    assert command(house, "rebuild", user)["changed"] is False
    shown = command(house, "show", user, "--limit", "2")
    assert (shown["held"], [event["action"] for event in shown["events"]]) == (12, [2, 3])


def pages(sender: Sender, user: str, numbers: range) -> None:
    for number in numbers:
        sender.page(user, number)
        time.sleep(0.15)


def test_what_comes_while_it_is_rebuilt_is_there_once(house: House, user: str) -> None:
    """Events go on coming, the user is forgotten and rebuilt again and again: in the end each event is there once."""
    sender = Sender(house)
    sender.page(user, 0)
    await_ingest(house)
    writer = Thread(target=pages, args=(sender, user, range(1, 40)))
    writer.start()
    rebuilt = 0
    while writer.is_alive():
        command(house, "forget", user, "--no-scan")
        rebuilt += rebuild(house.settings, user).changed
    writer.join()
    await_ingest(house)
    rebuild(house.settings, user)
    records = whole_log(house, user).records
    assert len(records) == 3 * 40
    assert rebuilt > 1


def test_what_ingest_has_yet_to_handle_is_left_to_it(house: House, user: str) -> None:
    """It would take an event that is in the log already for a redelivery, and never label it."""
    sender = Sender(house)
    sender.page(user, 0)
    await_ingest(house)
    house.workers["ingest"].child.kill()
    sender.page(user, 1)
    assert command(house, "rebuild", user)["held"] == 3
    house.workers["ingest"].child.start()
    house.workers["ingest"].await_ready()
    await_ingest(house)
    [log] = UserLog(connect(house.stack.redis_url), house.settings.recipe.log).read([LogWant(user, 100)])
    assert len(log.events) == 6
    examples = [decode(TOPICS[EXAMPLES], record.value) for record in read_topic(house.kafka, EXAMPLES)]
    # By id, as the trainer counts them: what was killed may produce an example again, under the id it gave it.
    clicks = {e.example_id for e in examples if e.user == user and e.kind == "click"}
    assert len(clicks) == 2  # of conversions, more as time passes
