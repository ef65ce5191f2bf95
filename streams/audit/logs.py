"""User logs against the events of the topics: what is not in a log, and what is in it twice."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

from redis import Redis

from feature_store.config import LogConfig
from feature_store.events import RECORD_BYTES, without_item
from feature_store.facts import ActionFact, is_stored_as
from feature_store.keys import event_tag, log_key
from feature_store.layout import HEADER_BYTES, TAG_BYTES, Header, decode_header
from streams.audit.events import EventFact, Events
from streams.audit.report import Section

USERS_AT_ONCE = 200
NO_TAG = bytes(TAG_BYTES)

Entry = tuple[bytes, bytes]
"""Tag and record of one event in a log; NO_TAG where the tag ring no longer holds it."""


@dataclass(slots=True)
class LogDifference:
    """Between one log and what must be in it."""

    lost: list[str] = field(default_factory=list)
    """Ids of events that are not in it."""
    lost_unnamed: int = 0
    """Further ones that are not: too few were ever appended, and which are missing cannot be seen any more."""
    twice: list[str] = field(default_factory=list)
    """Ids of events of which the newest part of the log holds two."""
    surplus: int = 0
    """Further ones: records or appends beyond one for each event."""
    strange: int = 0
    """Records that belong to no event."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.lost_unnamed or self.twice or self.surplus or self.strange)


def entries_of(stored: bytes) -> tuple[Header, list[Entry]]:
    """What a stored log holds, oldest first. Raises ValueError if the bytes are no log of this layout."""
    header = decode_header(stored[:HEADER_BYTES])
    records_at = HEADER_BYTES + header.tags * TAG_BYTES
    if len(stored) != records_at + header.capacity * RECORD_BYTES:
        raise ValueError(f"a log of {header} has another length than {len(stored)} bytes")
    entries = []
    for number in range(max(0, header.count - header.capacity), header.count):
        at = records_at + number % header.capacity * RECORD_BYTES
        record = stored[at : at + RECORD_BYTES]
        at = HEADER_BYTES + number % header.tags * TAG_BYTES
        tagged = number >= header.count - header.tags
        entries.append((stored[at : at + TAG_BYTES] if tagged else NO_TAG, record))
    return header, entries


def compare(stored: bytes | None, events: Mapping[str, EventFact], unsure: Collection[str]) -> LogDifference:
    """One user's log with all of the user's events, by id. What is in `unsure` may be in the log, and need not.

    Of an event whose place was taken by a newer one, only the count of all events ever appended still tells.
    """
    difference = LogDifference()
    header, entries = entries_of(stored) if stored is not None else (Header(0, 0, 0, 0), [])
    seen, untagged = _match_tags(entries, events, difference)
    _match_records(untagged, events, seen, unsure, difference)
    overwritten = header.count - len(entries)
    unseen = [name for name in events if name not in seen]
    sure = [name for name in unseen if name not in unsure]
    difference.surplus += max(0, overwritten - len(unseen))
    if overwritten == 0:
        difference.lost = sure
    else:
        difference.lost_unnamed = max(0, len(sure) - overwritten)
    return difference


def _match_tags(
    entries: Sequence[Entry], events: Mapping[str, EventFact], difference: LogDifference
) -> tuple[set[str], list[bytes]]:
    """Ids of the events whose tags the log holds, and its records without a tag."""
    by_tag = {event_tag(name): name for name in events}
    seen: set[str] = set()
    untagged = []
    for tag, record in entries:
        if tag == NO_TAG:
            untagged.append(record)
            continue
        name = by_tag.get(tag)
        if name is None:
            difference.strange += 1
        elif name in seen:
            difference.twice.append(name)
        else:
            seen.add(name)
            difference.strange += not is_stored_as(events[name], record)
    return seen, untagged


def _match_records(
    untagged: Sequence[bytes],
    events: Mapping[str, EventFact],
    seen: set[str],
    unsure: Collection[str],
    difference: LogDifference,
) -> None:
    """Adds to `seen` an event for each record: two events may have the same one."""
    left = Counter(untagged)
    alike: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for record in left:
        alike[without_item(record)].append(record)
    unnamed = {name for name, event in events.items() if isinstance(event, ActionFact) and event.item is None}
    # The sure ones are taken first, and those that name no item last: they may be any of several records.
    for name in sorted(events.keys() - seen, key=lambda name: (name in unsure, name in unnamed)):
        record = events[name].record
        for found in [record, *(alike[without_item(record)] if name in unnamed else ())]:
            if left[found]:
                left[found] -= 1
                seen.add(name)
                break
    known = {event.record for event in events.values()} | {without_item(events[name].record) for name in unnamed}
    for record, count in left.items():
        if record in known or without_item(record) in known:
            difference.surplus += count
        else:
            difference.strange += count


class Logs:
    """Compares the logs of all users of the events with what is stored of them."""

    def __init__(self, redis: Redis, events: Events, config: LogConfig, now_ms: int) -> None:
        self._redis = redis
        self._events = events
        self._config = config
        self._now_ms = now_ms
        self._users = self._stored = self._expired = 0
        self._without_log: list[str] = []
        self._differences: dict[str, LogDifference] = {}

    def suspects(self) -> list[str]:
        """Users whose log does not hold exactly what was read of their events."""
        return list(self._differences)

    def compare_all(self) -> None:
        for user, stored in self._read(list(self._events.of_user)):
            self._users += 1
            self._stored += decode_header(stored[:HEADER_BYTES]).count if stored is not None else 0
            self._look(user, stored)

    def compare_again(self, catch_up: Callable[[], None]) -> None:
        """Looks at the suspects once more: what came while the topics were read may be in their logs by now.

        catch_up: reads the topics on, after the logs: then every event of these logs is known.
        """
        again = list(self._read(self.suspects()))
        catch_up()
        self._differences.clear()
        self._without_log.clear()
        for user, stored in again:
            self._look(user, stored)

    def _look(self, user: str, stored: bytes | None) -> None:
        events = self._events.of_user[user]
        if stored is None and self._expired_by_age(events):
            self._expired += 1
            return
        difference = compare(stored, events, self._events.unsure)
        if stored is None and difference:
            self._without_log.append(user)
        if difference:
            self._differences[user] = difference

    def _expired_by_age(self, events: Mapping[str, EventFact]) -> bool:
        newest_ms = max((event.kafka_ms for event in events.values()), default=0)
        return newest_ms + 1000 * self._config.ttl_s < self._now_ms

    def section(self, *, events_whole: bool) -> Section:
        section = Section("user_logs")
        found = self._differences
        lost = [name for d in found.values() for name in d.lost] + [u for u, d in found.items() if d.lost_unnamed]
        twice = [name for d in found.values() for name in d.twice]
        more = [user for user, d in found.items() if d.surplus]
        strange = [user for user, d in found.items() if d.strange]
        section.count("users", self._users)
        section.count("events_stored", self._stored)
        section.count("users_expired", self._expired)
        section.count("users_without_log", len(self._without_log), self._without_log)
        section.fault("lost", lost, number=sum(len(d.lost) + d.lost_unnamed for d in found.values()))
        if events_whole:
            number = len(twice) + sum(d.surplus for d in found.values())
            section.fault("stored_twice", twice + more, number=number)
        else:
            section.fault("stored_twice", twice)
            number = sum(d.surplus for d in found.values())
            section.fault("stored_more_than_kept", more, number=number, verifiable=False)
        number = sum(d.strange for d in found.values())
        section.fault("of_no_event", strange, number=number, verifiable=events_whole)
        return section

    def _read(self, users: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        rest = iter(users)
        while some := list(islice(rest, USERS_AT_ONCE)):
            with self._redis.pipeline(transaction=False) as pipe:
                for user in some:
                    pipe.get(log_key(user))
                yield from zip(some, cast("list[bytes | None]", pipe.execute()), strict=True)
