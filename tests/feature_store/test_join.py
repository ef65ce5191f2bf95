"""The join, case by case, as its users tell it."""

from dataclasses import replace
from typing import cast

from redis import Redis

from feature_store import (
    ActionFact,
    Closed,
    Fact,
    ImpressionFact,
    JoinConfig,
    Joiner,
    Label,
    LogConfig,
    LogWant,
    Reply,
    ServedFact,
    UserLog,
    example_id,
)
from feature_store.forget import forget_user
from feature_store.keys import bucket_of, due_key, log_key
from tests.feature_store.facts import MINUTE, T0, action, hash_of, impression, record, served

CONFIG = JoinConfig(
    click_window_ms=10 * MINUTE, attribution_window_ms=60 * MINUTE, early_ms=5 * MINUTE, state_ttl_s=2 * 3600
)
LOG = LogConfig(length=32, slack=8, tags=16)


def joiner(redis: Redis) -> Joiner:
    return Joiner(redis, LOG, CONFIG)


def one(join: Joiner, fact: Fact) -> Reply:
    (reply,) = join.apply([fact], {})
    return reply


def sweep(join: Joiner, at: int) -> list[Closed]:
    """What was decided; timers at which nothing was left to decide are not of interest here."""
    return [closed for closed in join.sweep(T0 + at, limit=1000) if closed.outcomes]


def told(labels: tuple[Label, ...]) -> list[tuple[str, int]]:
    return [(example_id(label), label.label) for label in labels]


def test_a_click_makes_a_positive_example(redis: Redis) -> None:
    join = joiner(redis)
    assert one(join, served()).outcome == "served"
    shown = one(join, impression(position=3, at=5))
    assert (shown.outcome, shown.labels, shown.stored) == ("waiting", (), True)
    clicked = one(join, action("c", at=900))
    assert clicked.outcome == "matched"
    assert clicked.labels == (
        Label(
            kind="click",
            label=1,
            value=0.0,
            response_id="r",
            item="a",
            position=3,
            impression_id="i",
            impression_ms=T0 + 5,
            trigger_id="c",
            trigger_kafka_ms=T0 + 907,
            label_ms=T0 + 900,
            blob=served().blob,
            by_window=False,
        ),
    )
    assert sweep(join, 10 * MINUTE + 5) == []


def test_a_window_that_closes_makes_a_negative_example(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([served(), impression(at=5)], {})
    assert sweep(join, 10 * MINUTE + 4) == []
    (closed,) = sweep(join, 10 * MINUTE + 5)
    assert closed.outcomes == ("expired",)
    (label,) = closed.labels
    assert (label.kind, label.label, label.by_window, label.trigger_id) == ("click", 0, True, "")
    assert label.label_ms == T0 + 5 + 10 * MINUTE
    assert one(join, action("c", at=9 * MINUTE)) == Reply(True, one(join, action("c")).position, (), "late")


def test_a_closed_window_comes_back_until_it_is_settled(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([served(), impression()], {})
    first = sweep(join, 10 * MINUTE)
    assert one(join, action("c", at=MINUTE)).outcome == "late", "decided, though not settled"
    assert joiner(redis).sweep(T0 + 11 * MINUTE, limit=1000) == first
    join.settle(first)
    join.settle(first)
    assert sweep(join, 12 * MINUTE) == []
    assert sweep(join, 70 * MINUTE) == [], "not clicked, so nothing to convert"


def test_a_conversion_follows_its_click(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([served(), impression(), action("c", at=MINUTE)], {})
    converted = one(join, action("v", "conversion", at=30 * MINUTE, value=9.5))
    assert told(converted.labels) == [("conversion:i", 1)]
    assert converted.labels[0].value == 9.5
    assert one(join, action("w", "conversion", at=31 * MINUTE)).outcome == "repeated"
    assert sweep(join, 61 * MINUTE) == []


def test_a_click_that_does_not_convert_makes_a_negative_conversion_example(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([served(), impression(), action("c", at=MINUTE)], {})
    assert sweep(join, 59 * MINUTE) == []
    (closed,) = sweep(join, 60 * MINUTE)
    assert (told(closed.labels), closed.outcomes) == ([("conversion:i", 0)], ("expired",))
    assert one(join, action("v", "conversion", at=50 * MINUTE)).outcome == "late"


def test_a_conversion_without_a_click_is_counted_and_labels_nothing(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([served(), impression(), impression("j", item="b")], {})
    assert one(join, action("v", "conversion", at=MINUTE)).outcome == "waiting", "its click may be on the way"
    closed = {c.labels[0].impression_id: c for c in sweep(join, 10 * MINUTE)}
    assert closed["i"].outcomes == ("expired", "unmatched")
    assert told(closed["i"].labels) == [("click:i", 0)]
    assert one(join, action("w", "conversion", names="j", at=20 * MINUTE)).outcome == "unmatched"


def test_facts_in_reverse_order_give_the_same_labels_at_the_last(redis: Redis) -> None:
    join = joiner(redis)
    facts: list[Fact] = [action("v", "conversion", at=MINUTE), action("c", at=2), impression(), served()]
    replies = join.apply(facts, {})
    assert [reply.outcome for reply in replies] == ["waiting", "waiting", "waiting", "served"]
    assert told(replies[-1].labels) == [("click:i", 1), ("conversion:i", 1)]
    again = join.apply(facts, {})
    assert [(r.outcome, r.labels, r.position) for r in again] == [(r.outcome, r.labels, r.position) for r in replies]
    assert not any(r.stored for r in again)


def test_a_redelivery_gets_the_reply_of_the_first_delivery(redis: Redis) -> None:
    join = joiner(redis)
    facts: list[Fact] = [
        served(),
        impression(),
        impression("again"),
        impression("stray", item="unknown"),
        action("c", at=5),
        action("c2", at=6),
        action("late", at=11 * MINUTE),
        action("v", "conversion", at=7),
        action("s", "log", names=None),
        action("x", names=None),
        action("early", names="to come"),
    ]
    first = join.apply(facts, {})
    assert [r.outcome for r in first] == [
        "served", "waiting", "repeated", "unmatched", "matched", "repeated", "late", "matched", "log_only",
        "unmatched", "waiting",
    ]  # fmt: skip
    for fact, was in zip(facts, first, strict=True):
        assert one(join, fact) == Reply(False, was.position, was.labels, was.outcome)


def test_an_item_that_the_response_did_not_hold_labels_nothing(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([impression(item="unknown"), impression("j", item="b", at=1), served(items=("b",))], {})
    assert one(join, action("c", at=1)).outcome == "unmatched"
    closed = sweep(join, 11 * MINUTE)
    assert [c.outcomes for c in closed] == [("unmatched",), ("expired",)]
    assert [told(c.labels) for c in closed] == [[], [("click:j", 0)]]


def test_an_impression_of_before_its_request_labels_nothing(redis: Redis) -> None:
    """A sender's clock that is minutes behind: its windows would be closed before a click can come."""
    join, other = joiner(redis), "v"
    one(join, served(at=MINUTE))
    assert one(join, impression(at=MINUTE - 5_001)).outcome == "implausible"
    assert one(join, impression("j", item="b", at=MINUTE - 5_000)).outcome == "waiting"
    assert one(join, action("c", at=MINUTE)).outcome == "unmatched"
    assert one(join, impression(at=MINUTE - 5_001)).outcome == "implausible", "delivered again"
    join.apply([impression("k", at=MINUTE - 5_001, user=other), served(at=MINUTE, user=other)], {})
    closed = sweep(join, 12 * MINUTE)
    assert {c.timer[-1:]: c.outcomes for c in closed} == {
        b"i": ("implausible",), b"j": ("expired",), b"k": ("implausible",)
    }  # fmt: skip
    assert [told(c.labels) for c in closed if c.labels] == [[("click:j", 0)]]


def test_a_click_of_long_before_the_impression_that_it_names_is_implausible(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([served(at=10 * MINUTE), impression(at=10 * MINUTE)], {})
    assert one(join, action("c", at=5 * MINUTE - 1)).outcome == "implausible"
    assert one(join, action("d", at=5 * MINUTE)).outcome == "matched"


def test_a_window_that_closes_before_the_served_record_comes_is_labelled_by_it(redis: Redis) -> None:
    join = joiner(redis)
    one(join, impression())
    (closed,) = sweep(join, 10 * MINUTE)
    assert (closed.outcomes, closed.labels) == (("unserved",), ())
    reply = one(join, served())
    assert told(reply.labels) == [("click:i", 0)]
    assert reply.labels[0].by_window


def test_a_second_impression_of_the_same_pair_stands_for_the_first(redis: Redis) -> None:
    join = joiner(redis)
    one(join, served())
    one(join, action("c", names="second", at=3))
    one(join, impression("first"))
    second = one(join, impression("second", at=2))
    assert second.outcome == "repeated"
    assert told(second.labels) == [("click:first", 1)], "the click named the second, and had waited for it"
    assert sweep(join, 10 * MINUTE + 2) == []


def test_an_action_that_names_its_item_goes_to_the_last_impression_before_it(redis: Redis) -> None:
    join = joiner(redis)
    click = action("c", names=None, item="a", at=20)
    one(join, served())
    one(join, served("r2"))
    one(join, impression("i1", at=0))
    assert one(join, click).outcome == "waiting"
    one(join, impression("i3", response="r3", at=30))
    one(join, impression("i2", response="r2", at=10))
    assert sweep(join, 19) == []
    (closed,) = sweep(join, 20)
    assert (closed.outcomes, told(closed.labels)) == (("matched",), [("click:i2", 1)])
    assert sweep(join, 20) == [closed]
    join.settle([closed])
    assert sweep(join, 20) == []
    assert one(join, click).outcome == "waiting"


def test_of_two_impressions_at_the_same_time_the_greater_id_is_the_last(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([served(), served("r2"), impression("i2", response="r2"), impression("i1")], {})
    one(join, action("c", names=None, item="a", at=1))
    (closed,) = sweep(join, 1)
    assert told(closed.labels) == [("click:i2", 1)]


def test_settling_an_older_sweep_moves_nothing_on(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([impression(), action("c")], {})
    one(join, served())
    (closed,) = join.sweep(T0 + 10 * MINUTE, 1)
    assert closed.due_ms == T0 + 10 * MINUTE
    join.settle([replace(closed, labels=one(join, served()).labels)])
    (closed,) = sweep(join, 60 * MINUTE)
    assert told(closed.labels) == [("conversion:i", 0)]


def test_a_served_record_is_kept_as_long_as_its_last_impression(redis: Redis) -> None:
    join = joiner(redis)
    one(join, served())
    one(join, impression(at=119 * MINUTE))
    sweep(join, 121 * MINUTE)
    (closed,) = sweep(join, 130 * MINUTE)
    assert told(closed.labels) == [("click:i", 0)]


def test_an_action_whose_impression_never_comes_is_given_up(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([action("d", at=MINUTE), action("c"), action("x", item="z", names=None)], {})
    (closed,) = sweep(join, 5 * MINUTE)
    assert closed.outcomes == ("unmatched",)
    (closed,) = sweep(join, 6 * MINUTE)
    assert closed.outcomes == ("unmatched", "unmatched")
    assert sweep(join, 7 * MINUTE) == []
    one(join, served())
    assert one(join, impression()).labels == ()


def test_a_sweep_that_finds_nothing_means_that_nothing_is_due(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([served(), impression(), action("c")], {})
    fired = []
    while closed := join.sweep(T0 + 10**9, limit=1):
        fired += [one.outcomes for one in closed]
        join.settle(closed)
    assert fired == [(), ("expired",), (), ()], "click window, attribution window, pair dropped, response dropped"
    assert redis.zcard(due_key(bucket_of("u"))) == 0


def test_a_redelivery_beyond_the_horizon_changes_nothing_that_waits(redis: Redis) -> None:
    join = joiner(redis)
    waiting: list[Fact] = [action("c", names="to come"), action("x", names=None, item="a", at=20)]
    join.apply([served(), served("r2"), impression(), *waiting], {})
    placed = sweep(join, 20)
    assert told(placed[0].labels) == [("click:i", 1)]
    join.apply([action(f"s{n}", "log", names=None) for n in range(LOG.tags)], {})
    replies = join.apply([impression("i2", response="r2", at=10), *waiting], {})
    assert all(reply.stored for reply in replies), "the log has forgotten them"
    assert sweep(join, 20) == placed
    join.settle(placed)
    assert [c.outcomes for c in sweep(join, 5 * MINUTE)] == [("unmatched",)]


def test_state_is_dropped_when_its_time_to_live_is_over(redis: Redis) -> None:
    join = joiner(redis)
    facts: list[Fact] = [
        served(), impression(at=1), impression("again", at=2), impression("j", item="b"),
        impression("k", response="r2"), action("c"), action("e", names="x"), action("f", names=None, item="b"),
    ]  # fmt: skip
    join.apply(facts, {})
    for at in (0, 5, 10, 11, 60, 61, 120, 121):
        join.settle(sweep(join, at * MINUTE))
    keys = cast(list[bytes], redis.keys("*"))
    assert [key for key in keys if not key.startswith(b"log:")] == []


def test_a_user_forgotten_leaves_nothing(redis: Redis) -> None:
    join = joiner(redis)
    join.apply([served(), impression(), impression("k", response="r2"), action("e", names="x")], {("t", 0): 1})
    one(join, action("f", names=None, item="b"))
    forget_user(redis, "u")
    assert redis.keys("*") == [b"ingest:offsets"]


def test_users_do_not_meet(redis: Redis) -> None:
    join = joiner(redis)
    mine: list[Fact] = [served(), impression(), action("c")]
    join.apply([mine[0], mine[1], served(user="other"), action("c", user="other")], {})
    assert told(one(join, mine[2]).labels) == [("click:i", 1)]


def test_offsets_stand_beside_the_data(redis: Redis) -> None:
    join = joiner(redis)
    assert join.offsets() == {}
    join.apply([impression()], {("ads.impressions", 0): 5, ("a:b", 3): 7})
    join.apply([], {("ads.impressions", 0): 4})
    assert join.offsets() == {("ads.impressions", 0): 4, ("a:b", 3): 7}


def test_replies_keep_the_order_of_facts_of_many_users(redis: Redis) -> None:
    join = joiner(redis)
    facts: list[ServedFact | ImpressionFact | ActionFact] = []
    for n in range(40):
        facts += [impression(f"i{n}", user=f"u{n % 7}", response=f"r{n}"), action(f"s{n}", "log", user=f"u{n % 5}")]
    replies = join.apply(facts, {})
    assert [r.outcome for r in replies] == ["waiting", "log_only"] * 40
    assert {r.position.count for r in replies if r.position} >= {1, 2, 3}


def items_in_log(redis: Redis) -> list[int]:
    [log] = UserLog(redis, LOG).read([LogWant("u", LOG.length)])
    return [int(item) for item in log.events["item"]]


def test_an_action_that_names_only_its_impression_is_stored_with_that_one_s_item(redis: Redis) -> None:
    join, no_item, shown = joiner(redis), hash_of("none"), hash_of("i")
    click = replace(action("c", at=MINUTE), record=record(no_item))
    join.apply([served(), impression("i"), click], {})
    assert items_in_log(redis) == [shown, shown]
    join.apply([click], {})  # a redelivery
    again = impression("same", at=MINUTE)  # the same place, told of by another event
    join.apply([again, replace(action("d", names="same", at=2 * MINUTE), record=record(no_item))], {})
    assert items_in_log(redis) == [shown, shown, hash_of("same"), shown]


def test_an_action_that_names_its_item_keeps_it(redis: Redis) -> None:
    joiner(redis).apply([served(), impression("i"), replace(action("c", item="a"), record=record(5))], {})
    assert items_in_log(redis) == [hash_of("i"), 5]


def test_it_does_so_however_the_log_was_changed_meanwhile(redis: Redis) -> None:
    join, no_item = joiner(redis), hash_of("none")
    others = [action(f"s{n}", "log", names=None, at=MINUTE) for n in range(LOG.capacity)]
    join.apply([served(), impression("i"), *others], {})
    join.apply([replace(action("c", at=MINUTE), record=record(no_item))], {})
    assert items_in_log(redis)[-1] == hash_of("i")
    redis.delete(log_key("u"))
    join.apply([replace(action("d", "conversion", at=MINUTE), record=record(no_item))], {})
    assert items_in_log(redis) == [hash_of("i")]


def test_an_action_before_its_impression_has_no_item(redis: Redis) -> None:
    join, no_item = joiner(redis), hash_of("none")
    join.apply([served(), replace(action("c", at=0), record=record(no_item)), impression("i")], {})
    assert items_in_log(redis) == [no_item, hash_of("i")]
