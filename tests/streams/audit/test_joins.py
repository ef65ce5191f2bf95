"""Examples against what the topics call for: each anomaly planted, and each thing that looks like one and is none."""

from dataclasses import replace
from typing import Literal

import msgspec
import pytest
from redis import Redis

from feature_store.keys import bucket_of, due_key, join_key
from streams.audit.joins import OVERDUE_MS
from streams.wire.codec import decode, encode
from streams.wire.topics import EXAMPLES, SERVED, TOPICS
from tests.streams.audit.history import JOIN, SECOND, History, counts, faults

CLOSED = 100 * SECOND


@pytest.fixture
def joined(history: History) -> History:
    """a was shown, clicked and bought, b shown and left alone; all windows are closed."""
    history.serve()
    history.show("i", "a")
    history.show("j", "b")
    history.act("c", "i", at=SECOND)
    history.act("p", "i", kind="purchase", at=2 * SECOND)
    history.serve("later", at=CLOSED)
    history.sweep(CLOSED)
    return history


def ids(history: History) -> list[str]:
    return [decode(TOPICS[EXAMPLES], record.value).example_id for record in history.records[EXAMPLES]]


def test_what_is_called_for_is_there(joined: History) -> None:
    section = joined.joins()
    assert faults(section) == {}
    assert counts(section) == {"expected": 3, "click_positive": 1, "conversion_positive": 1, "click_negative": 1}


@pytest.mark.parametrize("name", ["click:i", "conversion:i", "click:j"])
def test_a_missing_example_is_named(joined: History, name: str) -> None:
    del joined.records[EXAMPLES][ids(joined).index(name)]
    assert faults(joined.joins()) == {"missing": (name,)}
    assert faults(joined.joins(whole=False)) == {}, "the broker may have let go of it"


def test_an_example_behind_the_cut_is_there_and_is_not_judged_yet(joined: History) -> None:
    joined.put(EXAMPLES, joined.records[EXAMPLES].pop(ids(joined).index("click:j")).value or b"")
    joined.act("e", "j", at=3 * SECOND, arrives=CLOSED + 1)
    section = joined.joins(came_since=1)
    assert faults(section) == {}
    joined.records[EXAMPLES].pop()
    assert faults(joined.joins()) == {"missing": ("click:j", "conversion:j")}


def test_an_example_of_nothing_is_extra(joined: History) -> None:
    joined.records["ads.impressions"].pop()
    assert faults(joined.joins()) == {"extra": ("click:j",)}
    assert faults(joined.joins(whole=False)) == {}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("click:i", {"label": 0}),
        ("click:j", {"label": 1}),
        ("conversion:i", {"value": 3.0}),
        ("click:j", {"item": "a"}),
    ],
)
def test_another_label_is_different(joined: History, name: str, change: dict[str, object]) -> None:
    place = ids(joined).index(name)
    record = joined.records[EXAMPLES].pop(place)
    changed = msgspec.structs.replace(decode(TOPICS[EXAMPLES], record.value), **change)
    joined.put(EXAMPLES, encode(TOPICS[EXAMPLES], changed))
    assert faults(joined.joins()) == {"different": (name,)}


def test_an_example_delivered_again_is_counted_and_must_be_the_same(joined: History) -> None:
    again = joined.records[EXAMPLES][0]
    joined.put(EXAMPLES, again.value or b"")
    section = joined.joins()
    assert faults(section) == {}
    assert counts(section)["delivered_again"] == 1
    changed = msgspec.structs.replace(decode(TOPICS[EXAMPLES], again.value), label=0)
    joined.put(EXAMPLES, encode(TOPICS[EXAMPLES], changed))
    assert faults(joined.joins()) == {"delivered_again_changed": ("click:i",)}


def test_a_window_that_is_open_is_pending(history: History) -> None:
    history.serve()
    history.show("i", "a")
    section = history.joins()
    assert (faults(section), counts(section)["pending"]) == ({}, 1)
    history.serve("later", at=CLOSED)  # event time has passed it, but its timer stands: the next sweep delivers it
    section = history.joins(now=CLOSED + OVERDUE_MS)
    assert (faults(section), counts(section)["pending"]) == ({}, 1)
    section = history.joins(now=CLOSED + OVERDUE_MS + 1)
    assert (faults(section), counts(section)["pending"]) == ({"overdue": ("click:i",)}, 1), "nothing sweeps"
    section = history.joins(held=True)
    assert (faults(section), counts(section)["overdue"]) == ({}, 1), "an open transaction holds the clock"
    history.redis.delete(due_key(bucket_of("u")))
    assert faults(history.joins()) == {"missing": ("click:i",)}


def test_labels_of_what_is_not_surely_ingested_are_pending(history: History) -> None:
    history.serve()
    history.show("i", "a")
    history.act("c", "i", ingest=False)
    assert faults(history.joins()) == {"missing": ("click:i",)}
    section = history.joins(unread=1)
    assert (faults(section), counts(section)["pending"]) == ({}, 2), "of the click, and of the window after it"


def test_a_click_that_came_after_its_window_could_close_is_late(history: History) -> None:
    history.serve()
    history.show("i", "a")
    history.serve("later", at=CLOSED)
    history.sweep(CLOSED)
    history.act("c", "i", at=SECOND, arrives=CLOSED + 1)
    history.act("p", "i", kind="purchase", at=2 * SECOND, arrives=CLOSED + 2)
    section = history.joins()
    assert faults(section) == {}
    assert counts(section)["late"] == 2, "the click, and the conversion that there cannot be without it"


def test_a_click_that_came_in_time_is_not_late(history: History) -> None:
    history.serve()
    history.show("i", "a")
    history.sweep(CLOSED)
    history.serve("later", at=CLOSED)
    history.act("c", "i", at=SECOND, arrives=2 * SECOND)
    assert faults(history.joins()) == {"different": ("click:i",)}


@pytest.mark.parametrize(
    ("arrives", "found", "after_all"),
    [
        pytest.param(CLOSED + 1, {}, 1, id="late"),
        pytest.param(2 * SECOND, {"delivered_again_changed": ("click:i",), "different": ("click:i",)}, 0, id="in-time"),
    ],
)
def test_what_redis_forgot_to_have_refused_may_be_taken_after_all(
    history: History, arrives: int, found: dict[str, tuple[str, ...]], after_all: int
) -> None:
    history.serve()
    history.show("i", "a")
    history.serve("later", at=CLOSED)
    keys = (join_key("u"), due_key(bucket_of("u")))
    remembered = [history.redis.dump(key) for key in keys]
    history.sweep(CLOSED)
    for key, value in zip(keys, remembered, strict=True):
        history.redis.restore(key, 0, value or b"", replace=True)
    history.act("c", "i", at=SECOND, arrives=arrives)
    history.sweep(CLOSED)  # the attribution window
    history.sweep(CLOSED)
    section = history.joins()
    assert faults(section) == found
    assert counts(section).get("taken_after_all", 0) == after_all


def test_a_click_that_names_its_item_may_find_an_earlier_impression(history: History) -> None:
    history.serve()
    history.serve("r2")
    history.show("i", "a", at=0)
    history.act("c", None, item="a", at=5 * SECOND)
    history.serve("later", at=6 * SECOND)
    history.sweep(6 * SECOND)  # the click is given to i, because j has not come
    history.show("j", "a", response="r2", at=4 * SECOND, arrives=7 * SECOND)
    history.serve("end", at=CLOSED)
    for _ in range(2):  # the click's window, then the attribution window
        history.sweep(CLOSED)
    section = history.joins()
    assert faults(section) == {}
    assert counts(section)["late"] == 4, "click and conversion of i, that j should have had, and of j"


def early(redis: Redis, provisional: Literal["click", "elapsed"]) -> History:
    """a was shown, and clicked after a second."""
    redis.flushall()
    history = History(redis, replace(JOIN, provisional=provisional, elapsed_ms=20 * SECOND))
    history.serve()
    history.show("i", "a")
    history.act("c", "i", at=SECOND)
    return history


@pytest.mark.parametrize("provisional", ["click", "elapsed"])
def test_provisional_examples_are_called_for(redis: Redis, provisional: Literal["click", "elapsed"]) -> None:
    history = early(redis, provisional)
    history.serve("later", at=21 * SECOND)
    if provisional == "elapsed":
        section = history.joins()
        assert counts(section)["pending"] == 2, "its timer stands"
    history.sweep(21 * SECOND)
    history.act("p", "i", kind="purchase", at=30 * SECOND)
    section = history.joins()
    assert faults(section) == {}
    assert counts(section) == {"click_positive": 1, "conversion_positive": 1, "provisional_negative": 1, "expected": 3}
    del history.records[EXAMPLES][ids(history).index("provisional:i")]
    assert faults(history.joins()) == {"missing": ("provisional:i",)}


@pytest.mark.parametrize("arrives", [25 * SECOND, 3 * SECOND])
def test_a_provisional_example_of_a_conversion_that_was_there_is_extra(redis: Redis, arrives: int) -> None:
    """One that reached the broker after the elapsed time could pass is late."""
    history = early(redis, "elapsed")
    history.serve("later", at=21 * SECOND)
    history.sweep(21 * SECOND)
    history.act("p", "i", kind="purchase", at=2 * SECOND, arrives=arrives)
    section = history.joins()
    if arrives > 21 * SECOND:
        assert (faults(section), counts(section)["late"]) == ({}, 1)
    else:
        assert faults(section) == {"extra": ("provisional:i",)}


def test_an_impression_of_before_its_request_calls_for_nothing(history: History) -> None:
    history.serve(at=20 * SECOND)
    history.show("i", "a", at=20 * SECOND - JOIN.skew_ms - 1)
    history.show("j", "b", at=20 * SECOND - JOIN.skew_ms)
    history.act("c", "i", at=21 * SECOND)
    history.sweep(CLOSED)
    section = history.joins()
    assert faults(section) == {}
    assert counts(section) == {"expected": 1, "click_negative": 1}


def test_a_fast_clock_of_who_asks_makes_no_impression_implausible(history: History) -> None:
    served = decode(TOPICS[SERVED], history.serve(at=0).value)
    ahead = msgspec.structs.replace(served, response_id="ahead", event_ms=served.event_ms + 50 * SECOND)
    history.send(SERVED, ahead, 0)
    history.show("i", "a", response="ahead", at=SECOND)
    history.act("c", "i", at=2 * SECOND)
    assert ids(history) == ["click:i"]
