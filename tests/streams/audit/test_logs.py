"""User logs against events: every way in which a log can hold too little or too much."""

import pytest

from feature_store.events import RECORD_BYTES
from feature_store.keys import log_key
from feature_store.layout import HEADER_BYTES, TAG_BYTES
from streams.audit.logs import compare, entries_of
from tests.streams.audit.history import LOG, SECOND, History, counts, faults

MANY = 5 * LOG.capacity


def fill(history: History, events: int, *, without: int | None = None) -> None:
    for number in range(events):
        history.show(f"e{number}", at=number * SECOND, ingest=number != without)


@pytest.mark.parametrize("events", [1, LOG.tags, LOG.capacity, MANY])
def test_a_log_that_holds_each_event_once_is_right(history: History, events: int) -> None:
    fill(history, events)
    history.show("e0", at=0, ingest=False)  # sent again: the log has it already
    history.show("of another", user="v")
    section = history.logs()
    assert counts(section) == {"users": 2, "events_stored": events + 1}
    assert faults(section) == {}
    assert counts(history.events().section()) == {"distinct": events + 1, "sent_again": 1}


@pytest.mark.parametrize("missing", [0, LOG.tags, LOG.capacity - 1])
def test_a_lost_event_is_named_while_the_log_is_not_full(history: History, missing: int) -> None:
    fill(history, LOG.capacity, without=missing)
    assert faults(history.logs()) == {"lost": (f"e{missing}",)}


def test_a_lost_event_of_a_full_log_is_counted_by_its_user(history: History) -> None:
    fill(history, MANY, without=3)
    assert faults(history.logs()) == {"lost": ("u",)}


def test_events_of_which_the_log_is_gone_are_lost(history: History) -> None:
    fill(history, 3)
    history.redis.delete(log_key("u"))
    section = history.logs()
    assert faults(section) == {"lost": ("e0", "e1", "e2")}
    assert counts(section)["users_without_log"] == 1
    section = history.logs(now=(LOG.ttl_s + 3) * SECOND)
    assert (faults(section), counts(section)) == ({}, {"users": 1, "users_expired": 1})


def test_an_event_stored_again_within_the_tags_is_named(history: History) -> None:
    fill(history, 3)
    key = log_key("u")
    stored = bytearray(history.stored())
    tags = int.from_bytes(stored[2:4], "little")
    stored[HEADER_BYTES : HEADER_BYTES + TAG_BYTES] = stored[HEADER_BYTES + TAG_BYTES : HEADER_BYTES + 2 * TAG_BYTES]
    records = HEADER_BYTES + tags * TAG_BYTES
    stored[records : records + RECORD_BYTES] = stored[records + RECORD_BYTES : records + 2 * RECORD_BYTES]
    history.redis.set(key, bytes(stored))
    assert faults(history.logs()) == {"lost": ("e0",), "stored_twice": ("e1",)}


@pytest.mark.parametrize("events", [LOG.tags + 2, LOG.capacity - 1, MANY])
def test_an_event_stored_again_beyond_the_tags_is_found(history: History, events: int) -> None:
    fill(history, events)
    history.ingest(history.show("e0", at=0, ingest=False))
    section = history.logs()
    assert faults(section) == {"stored_twice": ("u",)}
    assert counts(section)["stored_twice"] == 1


def test_a_record_of_no_event_is_found(history: History) -> None:
    fill(history, 2)
    history.records["ads.impressions"].pop()
    assert faults(history.logs()) == {"of_no_event": ("u",)}


def test_where_events_are_gone_from_the_broker_more_is_unknown_and_less_is_wrong(history: History) -> None:
    fill(history, LOG.capacity, without=1)
    del history.records["ads.impressions"][0]
    section = history.logs(whole=False)
    assert faults(section) == {"lost": ("e1",)}
    assert [line.name for line in section.lines if line.count and line.verdict == "unknown"] == ["of_no_event"]


def test_what_is_not_read_yet_may_be_stored_or_not(history: History) -> None:
    fill(history, 4, without=3)
    assert faults(history.logs(unread=2)) == {}
    assert faults(history.events(unread=2).section()) == {"not_read": ("e2", "e3")}
    history.passed = {("ads.impressions", 0): 3}
    found = faults(history.events(unread=2).section())
    assert found == {"passed_unread": ("e2",), "not_read": ("e3",)}, "the group has passed one, and Redis lacks it"
    assert faults(history.logs(unread=0)) == {"lost": ("e3",)}


def test_a_log_of_another_length_than_it_says_is_refused(history: History) -> None:
    fill(history, 2)
    stored = history.stored()
    with pytest.raises(ValueError, match="another length"):
        entries_of(stored + b"x")


def test_two_events_with_the_same_record_are_two(history: History) -> None:
    for name in ("one", "two", *map(str, range(LOG.tags))):  # the same second, item and action
        history.show(name)
    stored = history.stored()
    events = history.events().of_user["u"]
    assert not compare(stored, events, ())
    (lost,) = compare(stored, events | {"three": events["one"]}, ()).lost
    assert lost in ("one", "two", "three")
