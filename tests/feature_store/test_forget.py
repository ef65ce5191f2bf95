"""A user forgotten: what was removed is told, and nothing is left."""

from dataclasses import replace

from redis import Redis

from feature_store import JoinConfig, Joiner, LogConfig
from feature_store.forget import Forgotten, forget_user
from feature_store.keys import BUCKETS, due_key, join_key
from tests.feature_store.facts import MINUTE, action, impression, served

LOG = LogConfig(length=40, slack=20, tags=8)
WINDOWS = JoinConfig(
    click_window_ms=10 * MINUTE,
    attribution_window_ms=60 * MINUTE,
    provisional="elapsed",
    elapsed_ms=15 * MINUTE,
    state_ttl_s=2 * 3600,
)
NOTHING = Forgotten(events=0, served=0, impressions=0, actions=0, timers=0, responses=())


def fill(redis: Redis, user: str) -> None:
    """One of everything: a clicked impression, one without its served record, actions that wait."""
    Joiner(redis, LOG, WINDOWS).apply(
        [
            served(user=user),
            impression(user=user),
            action("click", user=user),
            impression("j", response="unserved", item="b", user=user),
            action("early", names="to come", user=user),
            action("by item", names=None, item="a", at=1, user=user),
        ],
        {},
    )


def holds(redis: Redis, user: str) -> bool:
    """Whether the name stands anywhere in Redis."""
    keys = redis.keys("*")
    members = [member for bucket in range(BUCKETS) for member in redis.zrange(due_key(bucket), 0, -1)]
    return any(user.encode() in text for text in (*keys, *members))


def test_what_is_removed_is_told_and_nothing_is_left(redis: Redis) -> None:
    fill(redis, "alice")
    fill(redis, "bob")
    found = forget_user(redis, "alice")
    assert found == Forgotten(events=5, served=1, impressions=2, actions=2, timers=0, responses=("r", "unserved"))
    assert found.anything
    assert not holds(redis, "alice")
    assert holds(redis, "bob")


def test_a_second_time_and_of_nobody_there_is_nothing(redis: Redis) -> None:
    fill(redis, "alice")
    forget_user(redis, "alice")
    assert forget_user(redis, "alice") == NOTHING
    assert forget_user(redis, "nobody") == NOTHING
    assert not NOTHING.anything


def test_timers_whose_state_has_expired_are_found(redis: Redis) -> None:
    fill(redis, "alice")
    redis.delete(join_key("alice"))
    assert forget_user(redis, "alice").timers > 0
    assert not holds(redis, "alice")


def test_what_comes_later_begins_a_new_log(redis: Redis) -> None:
    fill(redis, "alice")
    forget_user(redis, "alice")
    join = Joiner(redis, LOG, replace(WINDOWS, provisional="none"))
    [reply] = join.apply([action("click", user="alice")], {})
    assert reply.position is not None
    assert (reply.stored, reply.position.count) == (True, 1)
