"""Put a user's log together again from its events. Knows Redis; knows nothing of Kafka or of labels.

The join is not touched: labels that were pending do not come back, and none comes twice.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
from redis import Redis

from feature_store import functions, keys
from feature_store.config import LogConfig
from feature_store.events import RECORD_BYTES, without_item
from feature_store.facts import NO_LOG, Position
from feature_store.functions import Call
from feature_store.layout import decode_generation, draw_generation, encode_generation, growth_steps


@dataclass(frozen=True, slots=True)
class LogEntry:
    event_id: str
    record: bytes
    """16 bytes, as encode_event makes them."""
    names_item: bool = True
    """False: an action that does not say of which item it is, and may be stored with any."""


@dataclass(frozen=True, slots=True)
class WholeLog:
    """All that a log holds."""

    position: Position
    records: tuple[bytes, ...]
    """Oldest first."""

    @property
    def wrapped(self) -> bool:
        """Older events were there, and newer ones took their places."""
        return self.position.count > len(self.records)


def read_whole(redis: Redis, user: str, config: LogConfig) -> WholeLog:
    """The log with its slack, however long it is."""
    call = Call("log_read", [keys.log_key(user)], [config.capacity], read_only=True)
    [(generation, count, records)] = functions.run(redis, [call], atomic=False)
    position = Position(decode_generation(generation), count) if generation else NO_LOG
    return WholeLog(position, tuple(records[at : at + RECORD_BYTES] for at in range(0, len(records), RECORD_BYTES)))


def complete(log: WholeLog, events: Sequence[LogEntry], config: LogConfig) -> list[LogEntry] | None:
    """What the log should hold: what only it has (older than the events reach), then the events. None: it does.

    events: in order, each id once. Events are told apart by their records, of which equal ones are counted: tags are
    kept of the newest alone. Of a log that has wrapped, events before the first that it holds are not missing.
    """
    unmatched = Counter(log.records)
    alike: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for record in log.records:
        alike[without_item(record)].append(record)
    held, events = [False] * len(events), list(events)
    for exactly in (True, False):  # what is the very record first; then, of those that name no item, what is like it
        for i in reversed(range(len(events))):
            event = events[i]
            candidates = [event.record] if exactly else alike[without_item(event.record)]
            if held[i] or (event.names_item and not exactly):
                continue
            for record in candidates:
                if unmatched[record]:
                    unmatched[record] -= 1
                    held[i], events[i] = True, replace(event, record=record)
                    break
    start = held.index(True) if log.wrapped and any(held) else 0
    if all(held[start:]):
        return None
    old = []
    for number, record in enumerate(log.records):
        if unmatched[record]:
            unmatched[record] -= 1
            old.append(LogEntry(f"older than what is kept: {log.position.generation}, {number}", record))
    return [*old, *events[start:]][-config.capacity :]


def replace_log(redis: Redis, user: str, seen: Position, entries: Sequence[LogEntry], config: LogConfig) -> bool:
    """Stores these entries as a new generation of the log, if it still stands at `seen`; False: it does not.

    Positions of the old generation are void: examples that refer to them are skipped, as after an expiry.
    """
    generation = encode_generation(seen.generation) if seen != NO_LOG else b""
    packed = msgspec.msgpack.encode({"steps": growth_steps(config), "tags": config.tags, "log_ttl_s": config.ttl_s})
    joined = b"".join(keys.event_tag(entry.event_id) + entry.record for entry in entries)
    call = Call("replace", [keys.log_key(user)], [packed, generation, seen.count, draw_generation(), joined])
    [count] = functions.run(redis, [call], atomic=False)
    return int(count) >= 0
