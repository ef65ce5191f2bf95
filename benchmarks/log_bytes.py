"""What does a stored event cost? Bytes of memory, bytes of append-only file, and events a second.

    python benchmarks/log_bytes.py [--users 40] [--events 20000]

Starts each Redis found on this machine, fills it, and prints: bytes an event all in (the growth of used_memory over
many users' logs) beside the same events in a packed Redis Stream and in a Stream of JSON entries; then the join at work
on a mixed history, in batches of 200.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import cast

from redis import Redis

from feature_store import (
    ActionFact,
    Fact,
    ImpressionFact,
    JoinConfig,
    Joiner,
    LogConfig,
    LogEvent,
    ServedFact,
    encode_event,
)
from feature_store.keys import log_key
from streams.local.redis import found_servers, redis_server

T0 = 1_700_000_000_000
LENGTH = 2048
BATCH = 200
MIN_EVENTS = 80_000
"""Events of a measurement, at least: the server's own comings and goings are some 100 KB."""
ITEMS_SERVED = 20
ITEMS_SHOWN = 8
CLICK_EVERY = 16
BLOB = bytes(range(256)) * 8


def user(number: int) -> str:
    return f"user-{number:012d}"


def log_fact(of: int, number: int) -> ActionFact:
    record = encode_event(LogEvent((T0 // 1000) + number, number * 0x9E3779B97F4A7C15 % 2**64, 3, number % 32, 1.0))
    return ActionFact(f"{of}-{number}", user(of), "search", "log", None, None, 1.0, T0 + number, T0, record)


def fill_log(redis: Redis, users: int, events: int) -> None:
    joiner = Joiner(redis, LogConfig(), JoinConfig())
    for first in range(0, events, BATCH):
        for of in range(users):
            joiner.apply([log_fact(of, n) for n in range(first, min(first + BATCH, events))], {})


def fill_packed_stream(redis: Redis, users: int, events: int) -> None:
    for of in range(users):
        with redis.pipeline(transaction=False) as pipe:
            for n in range(events):
                pipe.xadd(f"stream:{user(of)}", {"e": log_fact(of, n).record}, id=f"{T0 + n}-0")
            pipe.execute()
        redis.expire(f"stream:{user(of)}", 10**6)


def fill_json_stream(redis: Redis, users: int, events: int) -> None:
    for of in range(users):
        with redis.pipeline(transaction=False) as pipe:
            for n in range(events):
                entry = {"event_id": f"{of}-{n}", "item": f"item-{n * 7919 % 10**9:09d}", "action": "search"}
                text = json.dumps(entry | {"surface": "default", "value": 1.0, "event_ms": T0 + n})
                pipe.xadd(f"stream:{user(of)}", {"event": text}, id=f"{T0 + n}-0")
            pipe.execute()
        redis.expire(f"stream:{user(of)}", 10**6)


def memory(redis: Redis) -> int:
    """Returns the bytes of the data: all that is used, less the connections' and the append-only file's buffers."""
    info = cast(dict[str, int], redis.info("memory"))
    return info["used_memory"] - info["mem_clients_normal"] - info["mem_aof_buffer"]


def empty(redis: Redis) -> None:
    """Valkey frees in the background: wait until it has."""
    redis.flushall()
    while cast(dict[str, int], redis.info("memory"))["lazyfree_pending_objects"]:
        time.sleep(0.01)


def bytes_an_event(redis: Redis, fill: Callable[[Redis, int, int], None], users: int, events: int) -> float:
    users = max(users, MIN_EVENTS // events)
    empty(redis)
    fill(redis, 4, events)  # functions and buffers are not the events'
    empty(redis)
    before = memory(redis)
    fill(redis, users, events)
    return (memory(redis) - before) / (users * events)


def history(users: int) -> Iterator[Fact]:
    """Responses of 20 items, 8 of them shown, one impression in 16 clicked; a search for every response."""
    number = 0
    while True:
        number += 1
        of, response, ms = number * 7919 % users, f"response-{number:09d}", T0 + number
        items = tuple(f"item-{(number * ITEMS_SERVED + k) % 10**6:06d}" for k in range(ITEMS_SERVED))
        yield ServedFact(response, user(of), ms, items, BLOB)
        yield log_fact(of, number)
        for k in range(ITEMS_SHOWN):
            event = f"impression-{number:09d}-{k}"
            record = log_fact(of, number).record
            yield ImpressionFact(event, user(of), response, items[k], k, ms + k, T0, record)
            if (number * ITEMS_SHOWN + k) % CLICK_EVERY == 0:
                yield ActionFact(f"click-{event}", user(of), "click", "click", None, event, 0.0, ms + 9, T0, record)


def time_join(redis: Redis, events: int) -> str:
    empty(redis)
    joiner = Joiner(redis, LogConfig(), JoinConfig())
    joiner.apply([], {("warm", 0): 0})
    redis.config_set("auto-aof-rewrite-percentage", 0)  # a rewrite would make the file shorter in between
    written = aof_bytes(redis)
    source, applied, labels = history(users=1000), 0, 0
    started = time.perf_counter()
    while applied < events:
        batch = list(islice(source, BATCH))
        labels += sum(len(reply.labels) for reply in joiner.apply(batch, {("ads.impressions", 0): applied}))
        applied += len(batch)
    seconds = time.perf_counter() - started
    written = aof_bytes(redis) - written
    started = time.perf_counter()
    closed = joiner.sweep(T0 + 10**9, limit=5000)
    joiner.settle(closed)
    swept = len(closed) / (time.perf_counter() - started)
    return (
        f"{applied / seconds:,.0f} facts/s applied ({labels} labels), {written / applied:.0f} bytes of append-only "
        f"file a fact (2 KB served record one in {ITEMS_SHOWN + 2.5}), {swept:,.0f} windows/s swept and settled"
    )


def aof_bytes(redis: Redis) -> int:
    return int(cast(dict[str, int], redis.info("persistence"))["aof_current_size"])


def measure(redis: Redis, users: int, events: int) -> None:
    for held in (17, 300, 1_000, LENGTH, LogConfig().capacity):  # the smallest first: it also warms the server up
        print(f"{f'user log, at {held:,} events':34}{bytes_an_event(redis, fill_log, users, held):8.2f} bytes/event")
    usage = cast(int, redis.memory_usage(log_key(user(0))))
    print(f"{'  MEMORY USAGE of a full one':34}{usage:8,} bytes: {usage / LENGTH:.2f} an event at {LENGTH:,} of them")
    print(f"{'packed Stream, 2,048 entries':34}{bytes_an_event(redis, fill_packed_stream, users, LENGTH):8.2f}")
    print(f"{'Stream of JSON, 2,048 entries':34}{bytes_an_event(redis, fill_json_stream, users, LENGTH):8.2f}")
    print(time_join(redis, events))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--events", type=int, default=20_000)
    args = parser.parse_args()
    for kind in found_servers():
        with tempfile.TemporaryDirectory() as home:
            server = redis_server(Path(home), kind)
            server.start()
            try:
                redis = Redis.from_url(server.address)
                print(f"\n{kind} {server.version}, {platform.processor() or platform.machine()}, {args.users} users")
                measure(redis, args.users, args.events)
                redis.close()
            finally:
                server.stop()


if __name__ == "__main__":
    main()
