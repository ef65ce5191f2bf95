"""What the functions write never changes by accident: a whole log, and the state of a join."""

from typing import cast

import msgspec
from redis import Redis

from feature_store import JoinConfig, Joiner, LogConfig
from feature_store.config import HELD_S
from feature_store.keys import due_key, event_tag, join_key, log_key
from tests.feature_store.facts import T0, action, impression, served

LOG = LogConfig(length=2, slack=1, tags=2)


def test_a_log_is_these_bytes(redis: Redis) -> None:
    facts = [action(f"e{n}", "log", names=None) for n in range(4)]
    (*_, last) = Joiner(redis, LOG, JoinConfig()).apply(facts, {})
    assert last.position is not None
    header = (
        bytes.fromhex("01 00 0200 03000000") + last.position.generation.to_bytes(8, "little") + bytes([4] + [0] * 7)
    )
    tags = event_tag("e2") + event_tag("e3")
    assert redis.get(log_key("u")) == header + tags + facts[3].record + facts[1].record + facts[2].record


def test_the_state_of_a_join_is_these_fields_and_timers(redis: Redis) -> None:
    config = JoinConfig()
    join = Joiner(redis, LOG, config)
    join.apply([served(), impression(position=3), action("c", at=5, value=0.5), impression("j", at=1)], {})
    join.apply([impression("k", response="r2"), action("w", names="x"), action("a", names=None, item="b")], {})
    stored = cast(dict[bytes, bytes], redis.hgetall(join_key("u")))
    blob = stored.pop(b"sr")
    head = msgspec.msgpack.encode(["a", "b"]) + msgspec.msgpack.encode(T0)
    assert blob == bytes([len(head), 0, 0, 0]) + head + served().blob
    click = ["c", T0 + 5, T0 + 12, 0.5, 0, "ec"]
    empty = ["", 0, 0, 0, 0, ""]
    waits = {"id": "w", "role": "click", "item": False, "impression": "x", "value": 0, "ms": T0, "kafka_ms": T0 + 7}
    by_item = {"id": "a", "role": "click", "item": "b", "impression": False, "value": 0, "ms": T0, "kafka_ms": T0 + 7}
    assert {field.decode(): msgspec.msgpack.decode(value) for field, value in stored.items()} == {
        "pi": [1, "r", "a", 3, T0, 1, 0, 0, click, empty, False, False, item_of("i")],
        "pj": [0, "i", 3, T0 + 1],
        "pk": [1, "r2", "a", 0, T0, 4, 0, 0, empty, empty, False, False, item_of("k")],
        "na": [[T0, "i", "r"], [T0, "k", "r2"]],
        "or2": ["k"],
        "wx": [waits],
        "aa": by_item,
    }
    ttl_ms = config.state_ttl_s * 1000
    timers = cast(list[tuple[bytes, float]], redis.zrange(due_key(34), 0, -1, withscores=True))
    assert {timer: score - T0 for timer, score in timers} == {
        b"a\0\x01ua": 0,
        b"p\0\x01ui": config.click_window_ms,
        b"p\0\x01uk": config.click_window_ms,
        b"p\0\x01uj": ttl_ms + 1,
        b"w\0\x01ux": config.early_ms,
        b"s\0\x01ur": ttl_ms,
        b"s\0\x01ur2": ttl_ms,
    }


def item_of(event: str) -> str:
    """The item's bytes in this event's log record."""
    return impression(event).record[4:12].decode()


def test_a_pair_of_an_older_worker_tells_no_item(redis: Redis) -> None:
    join, click = Joiner(redis, LOG, JoinConfig()), action("c")
    join.apply([served(), impression()], {})
    pair = msgspec.msgpack.decode(cast(bytes, redis.hget(join_key("u"), "pi")))
    redis.hset(join_key("u"), "pi", msgspec.msgpack.encode(pair[:10]))
    [reply] = join.apply([click], {})
    assert (reply.outcome, len(reply.labels)) == ("matched", 1)
    assert click.record in cast(bytes, redis.get(log_key("u")))


def test_what_is_stored_goes_in_its_time(redis: Redis) -> None:
    Joiner(redis, LOG, JoinConfig()).apply([impression()], {})
    held_s = redis.ttl(join_key("u")) - JoinConfig().state_ttl_s
    assert HELD_S - 60 < held_s <= HELD_S, "a week in which nobody closes windows loses no label"
    assert 0 < redis.ttl(log_key("u")) <= LOG.ttl_s


def test_a_served_record_of_an_older_worker_is_read(redis: Redis) -> None:
    """It does not hold its request's time: no impression is too early for it."""
    items = msgspec.msgpack.encode(["a", "b"])
    redis.hset(join_key("u"), b"sr", bytes([len(items), 0, 0, 0]) + items + served().blob)
    early = -2 * JoinConfig().skew_ms
    replies = Joiner(redis, LOG, JoinConfig()).apply([impression(at=early), action("c", at=early)], {})
    assert [reply.outcome for reply in replies] == ["waiting", "matched"]
    assert replies[1].labels[0].blob == served().blob
