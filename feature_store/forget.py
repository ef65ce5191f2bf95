"""Remove a user: the log, what waits for a label, the timers. Knows Redis; knows nothing of Kafka."""

from dataclasses import dataclass

import msgspec
from redis import Redis

from feature_store import functions, keys
from feature_store.functions import Call


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What there was of a user."""

    events: int
    """Events in the log, with their tags."""
    served: int
    """Served records that waited for impressions."""
    impressions: int
    """Impressions whose labels could still come or be delivered again."""
    actions: int
    """Clicks and conversions that waited for their impression."""
    timers: int
    """Timers that no field of the join had any more: its time to live was over."""
    responses: tuple[str, ...]
    """Response ids of the served records and impressions."""

    @property
    def anything(self) -> bool:
        return any((self.events, self.served, self.impressions, self.actions, self.timers))


_REPLY = msgspec.msgpack.Decoder(tuple[int, dict[str, int] | list[int], list[str]])


def forget_user(redis: Redis, user: str) -> Forgotten:
    """Removes all that is stored of the user; atomic, but for timers left over, which are looked for afterwards.

    An event that is appended later begins a new log.
    """
    due = keys.due_key(keys.bucket_of(user))
    [packed] = functions.run(
        redis, [Call("forget", [keys.log_key(user), keys.join_key(user), due], [user])], atomic=False
    )
    events, by_letter, responses = _REPLY.decode(packed)
    fields = by_letter if isinstance(by_letter, dict) else {}  # Lua knows no empty map
    left = [member for member, _ in redis.zscan_iter(due, count=1000) if keys.timer_user(member) == user]
    if left:
        redis.zrem(due, *left)
    return Forgotten(
        events=events,
        served=fields.get("s", 0),
        impressions=fields.get("p", 0),
        actions=fields.get("a", 0) + fields.get("w", 0),
        timers=len(left),
        responses=tuple(sorted(responses)),
    )
