"""How this process reads snapshots: streams and caches, from the environment."""

import os

from ranker.snapshots.cache import ShardCache
from ranker.snapshots.reader import DEFAULT_STREAMS, ShardReader
from streams.config.settings import SNAPSHOT_CACHE, SNAPSHOT_CACHE_BYTES, SNAPSHOT_CACHE_SHARED, SNAPSHOT_STREAMS
from streams.errors import StartError, start_errors

DEFAULT_CACHE_BYTES = 20_000_000_000


def shard_reader() -> ShardReader:
    """Raises StartError where a setting is not what it must be."""
    max_bytes = _positive(SNAPSHOT_CACHE_BYTES, DEFAULT_CACHE_BYTES)
    urls = [os.environ.get(name) for name in (SNAPSHOT_CACHE, SNAPSHOT_CACHE_SHARED)]
    with start_errors():
        caches = [ShardCache(url, max_bytes) for url in urls if url]
    return ShardReader(streams_setting(), caches)


def streams_setting() -> int:
    """How many streams read at once. Raises StartError."""
    return _positive(SNAPSHOT_STREAMS, DEFAULT_STREAMS)


def _positive(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise StartError(f"{name} must be a whole number, at least 1, got {text!r}")
    return int(text)
