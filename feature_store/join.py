"""The join: facts in, labels out, state in Redis. Knows Redis; knows nothing of Kafka or of what a blob holds.

Every fact of a user, the user's log and its timers change in one server-side function; a batch of facts and the offsets
that come after it are one transaction. So a crash leaves all or nothing of a batch, and a batch applied again changes
nothing and gets the same labels.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec
from redis import Redis

from feature_store import functions, keys
from feature_store.config import HELD_S, JoinConfig, LogConfig
from feature_store.events import RECORD_BYTES
from feature_store.facts import (
    ActionFact,
    Closed,
    Fact,
    ImpressionFact,
    Label,
    Outcome,
    Position,
    Reply,
    ServedFact,
)
from feature_store.functions import Call
from feature_store.layout import decode_generation, draw_generation, growth_steps

__all__ = ["Joiner"]

# As lua/join.lua's label_of writes it; the last is the number of the blob, from 1.
_Label = tuple[
    Literal["click", "conversion"], int, float, str, str, int, str, int, str, int, int, bool, bool, bool, int
]  # fmt: skip
_REPLIES = msgspec.msgpack.Decoder(list[tuple[int, int, Outcome, list[_Label]]])
_CLOSED = msgspec.msgpack.Decoder(list[tuple[int, list[Outcome], list[_Label]]])
_DUE_BLOCK = 64
"""Buckets asked in one call: the server does nothing else meanwhile, and after a silence each may have much."""
_pack = msgspec.msgpack.Encoder().encode


class Joiner:
    """Applies facts and closes windows. One at a time may sweep a bucket; any number may apply."""

    def __init__(self, redis: Redis, log_config: LogConfig, join_config: JoinConfig) -> None:
        self._redis = redis
        self._config = _pack(
            {
                "steps": growth_steps(log_config),
                "tags": log_config.tags,
                "log_ttl_s": log_config.ttl_s,
                "key_ttl_s": join_config.state_ttl_s + HELD_S,
                **dataclasses.asdict(join_config),
            }
        )

    def apply(
        self, facts: Sequence[Fact], offsets: Mapping[tuple[str, int], int], known: Collection[int] = ()
    ) -> list[Reply]:
        """Store the facts and join them; one round trip, one transaction. Replies are in the order of the facts.

        offsets: by (topic, partition), the next offset to read once these facts are applied.
        known: indices of facts that were stored before, by their offsets. The log's tags tell that too, but of a user's
            newest events only.
        Raises ValueError on a record that is not 16 bytes, and redis' errors: then apply the same batch again.
        """
        places = defaultdict(list)
        for place, fact in enumerate(facts):
            places[fact.user].append(place)
        calls = [self._apply_call(user, [(facts[i], i in known) for i in mine]) for user, mine in places.items()]
        if offsets:
            fields: list[bytes | str | int] = []
            for (topic, partition), offset in offsets.items():
                fields += [f"{topic}:{partition}", offset]
            calls.append(Call("set_offsets", [keys.OFFSETS], fields))
        results = functions.run(self._redis, calls, atomic=True)
        replies: list[Reply | None] = [None] * len(facts)
        for mine, (generation, packed, *blobs) in zip(places.values(), results, strict=False):
            log = decode_generation(generation) if generation else 0
            for i, (stored, count, outcome, labels) in zip(mine, _REPLIES.decode(packed), strict=True):
                position = Position(log, count) if count else None
                replies[i] = Reply(bool(stored), position, _labels(labels, blobs), outcome)
        return [reply for reply in replies if reply is not None]

    def offsets(self) -> dict[tuple[str, int], int]:
        """Returns the next offset to read, by (topic, partition), as stored with the newest facts."""
        stored = cast(dict[bytes, bytes], self._redis.hgetall(keys.OFFSETS))
        found = {}
        for field, offset in stored.items():
            topic, _, partition = field.decode().rpartition(":")
            found[topic, int(partition)] = int(offset)
        return found

    def sweep(self, now_ms: int, limit: int, buckets: Sequence[int] = range(keys.BUCKETS)) -> list[Closed]:
        """Fire up to `limit` timers due by now_ms of event time, the earliest first; two round trips.

        What has labels stays due, and comes back the same at the next sweep, until it is settled. An empty list means
        that nothing is due. Raises redis' errors: then sweep again.
        """
        due = self._due(now_ms, limit, buckets)
        due_ms = {timer: score for score, timer in due}
        timers_of = defaultdict(list)
        for _, timer in due:
            timers_of[keys.timer_user(timer)].append(timer)
        calls = [self._timer_call("sweep", user, timers) for user, timers in timers_of.items()]
        results = functions.run(self._redis, calls, atomic=False)
        closed = {}
        for (user, timers), (packed, *blobs) in zip(timers_of.items(), results, strict=True):
            for timer, (stage, outcomes, labels) in zip(timers, _CLOSED.decode(packed), strict=True):
                closed[timer] = Closed(user, timer, stage, due_ms[timer], tuple(outcomes), _labels(labels, blobs))
        return [closed[timer] for _, timer in due]

    def _due(self, now_ms: int, limit: int, buckets: Sequence[int]) -> list[tuple[int, bytes]]:
        """Returns score and name of the earliest timers that are due."""
        blocks = [buckets[at : at + _DUE_BLOCK] for at in range(0, len(buckets), _DUE_BLOCK)]
        calls = [Call("due", [keys.due_key(b) for b in block], [now_ms, limit]) for block in blocks]
        replies = functions.run(self._redis, calls, atomic=False)
        found = [(int(score), timer) for reply in replies for timer, score in zip(reply[::2], reply[1::2], strict=True)]
        return sorted(found)[:limit]

    def settle(self, closed: Sequence[Closed]) -> None:
        """The labels of these are delivered: their timers move on. Settling twice is harmless."""
        delivered: defaultdict[str, list[bytes | str | int]] = defaultdict(list)
        for one in closed:
            if one.labels:
                delivered[one.user] += [one.timer, one.stage]
        calls = [self._timer_call("settle", user, args) for user, args in delivered.items()]
        functions.run(self._redis, calls, atomic=False)

    def _apply_call(self, user: str, facts: Sequence[tuple[Fact, bool]]) -> Call:
        packed: list[tuple[Any, ...]] = []
        entries = bytearray()
        blobs = []
        for fact, known in facts:
            match fact:
                case ServedFact():
                    packed.append((1, fact.response_id, fact.event_ms, fact.items))
                    blobs.append(fact.blob)
                    continue
                case ImpressionFact(event_id=event_id, event_ms=ms, kafka_ms=kafka_ms):
                    packed.append((2, event_id, fact.response_id, fact.item, fact.position, ms, kafka_ms, known))
                case ActionFact(event_id=event_id, event_ms=ms, kafka_ms=kafka_ms):
                    names = (fact.item or False, fact.impression_id or False)
                    packed.append((3, event_id, fact.role, *names, fact.value, ms, kafka_ms, known))
            if len(fact.record) != RECORD_BYTES:
                raise ValueError(f"record must be {RECORD_BYTES} bytes, got {len(fact.record)}; use encode_event")
            entries += keys.event_tag(event_id) + fact.record
        user_keys = [keys.log_key(user), keys.join_key(user), keys.due_key(keys.bucket_of(user))]
        return Call("apply", user_keys, [user, self._config, draw_generation(), _pack(packed), bytes(entries), *blobs])

    def _timer_call(self, function: str, user: str, args: Sequence[bytes | str | int]) -> Call:
        return Call(function, [keys.join_key(user), keys.due_key(keys.bucket_of(user))], [user, self._config, *args])


def _labels(rows: Sequence[_Label], blobs: Sequence[bytes]) -> tuple[Label, ...]:
    return tuple(Label(*row[:11], blobs[row[14] - 1], *row[11:14]) for row in rows)
