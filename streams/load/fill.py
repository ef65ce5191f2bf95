"""User logs of a given length, filled as an ad system would: by events over Kafka, that ingest stores.

Events are views and searches of the past, kinds that label nothing: they go to the log alone, and nothing waits for
them.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from feature_store.config import LogConfig
from feature_store.log import LogSlice, LogWant, UserLog
from streams.client import RankingClient
from streams.errors import StreamError
from streams.kafka.connection import Kafka
from streams.simulate.world import World
from streams.wire.messages import Conversion

VIEW, SEARCH = "view", "search"
AT_ONCE = 8_192
"""Events on their way to the logs at most: the in-memory broker forgets what it has no room for."""
USERS_AT_ONCE = 50
"""Logs read in one round trip: Redis serves others meanwhile."""
STALL_S = 60.0
SEARCH_SHARE = 0.2
GAP_MS = 60_000
"""Between two events of a user: the newest is a gap ago."""


def fill_logs(
    kafka: Kafka,
    user_log: UserLog,
    config: LogConfig,
    world: World,
    length: int,
    *,
    prefix: str,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Appends to the log of each of the world's users what it lacks of `length` events; returns how many were sent.

    Returns when each log was read back with that length. tell: (events stored, events sent in all).
    Raises ValueError where logs are never that long, StreamError if ingest stores nothing for a minute.
    """
    check_length(length, config)
    lacking = [max(0, length - count) for count in log_counts(user_log, world.user_ids)]
    total, done = sum(lacking), 0
    with RankingClient(kafka, linger_ms=5.0) as client:
        for users in _batches(lacking):
            for user in users:
                for event in _past(world, user, lacking[user], f"{prefix}-log-{user}"):
                    client.send_conversion(event)
            client.flush(STALL_S)
            _await_stored(user_log, [world.user_ids[user] for user in users], length)
            done += sum(lacking[user] for user in users)
            tell(done, total)
    _check(user_log, world.user_ids, length)
    return total


def check_length(length: int, config: LogConfig) -> None:
    """Raises ValueError where logs are never that long."""
    if not 0 <= length <= config.length:
        raise ValueError(f"log length must be 0 to {config.length}, what the recipe keeps; got {length}")


def _batches(lacking: Sequence[int]) -> Iterator[list[int]]:
    """Users that lack something, so many at a time that their events together are at most AT_ONCE, or one user's."""
    batch: list[int] = []
    events = 0
    for user, number in enumerate(lacking):
        if batch and events + number > AT_ONCE:
            yield batch
            batch, events = [], 0
        if number:
            batch.append(user)
            events += number
    if batch:
        yield batch


def _past(world: World, user: int, number: int, prefix: str) -> Iterator[Conversion]:
    """The events, oldest first; the same ones for the same world and user."""
    rng = np.random.default_rng([world.seed, 5, user])
    now_ms = time.time_ns() // 1_000_000
    items = rng.integers(0, world.config.items, number)
    searched = rng.random(number) < SEARCH_SHARE
    for n, (item, search) in enumerate(zip(items.tolist(), searched.tolist(), strict=True)):
        yield Conversion(
            event_id=f"{prefix}-{n}",
            user=world.user_ids[user],
            kind=SEARCH if search else VIEW,
            item=f"query:{world.topics[world.item_topic[item]]}" if search else world.item_ids[item],
            event_ms=now_ms - GAP_MS * (number - n),
            surface="search" if search else "feed",
        )


def log_counts(user_log: UserLog, users: Sequence[str]) -> list[int]:
    """How many events each of these users' logs has ever taken."""
    return [found.position.count for found in _read(user_log, users, 0)]


def _read(user_log: UserLog, users: Sequence[str], length: int) -> Iterator[LogSlice]:
    for start in range(0, len(users), USERS_AT_ONCE):
        yield from user_log.read([LogWant(user, length) for user in users[start : start + USERS_AT_ONCE]])


def _await_stored(user_log: UserLog, users: Sequence[str], length: int) -> None:
    """Raises StreamError if for a minute no event comes to these users' logs."""
    before, since_s = -1, time.monotonic()
    while True:
        counts = log_counts(user_log, users)
        if min(counts) >= length:
            return
        if sum(counts) != before:
            before, since_s = sum(counts), time.monotonic()
        elif time.monotonic() - since_s > STALL_S:
            raise StreamError(
                f"events are not stored, {STALL_S:.0f} s after the last; is `tiderank ingest` running against the same "
                "broker and Redis (TIDERANK_BOOTSTRAP, TIDERANK_REDIS_URL)?"
            )
        time.sleep(0.02)


def _check(user_log: UserLog, users: Sequence[str], length: int) -> None:
    for user, found in zip(users, _read(user_log, users, length), strict=True):
        if len(found.events) != length:
            raise StreamError(
                f"the log of {user} reads {len(found.events)} events, not {length}; is --recipe the one of the workers?"
            )
