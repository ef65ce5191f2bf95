"""A cache of shards, addressed by digest: a local folder, or a store that several hosts share.

Equal shards of different snapshots are one entry. Every read is checked against the digest, so a cache can be slow or
wrong but never believed: what is damaged is dropped, and every error of the cache is a miss that the log tells.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from fsspec.implementations.local import LocalFileSystem

from ranker.snapshots.byte_streams import ByteStreams
from ranker.snapshots.shards import Damaged, Shard, read_shard
from ranker.snapshots.store import TEMPORARY, open_root, write_whole
from ranker.updates.tensor_file import PIECE_BYTES, Buffer

log = logging.getLogger(__name__)

SUFFIX = ".shard"
ABANDONED = timedelta(hours=1)
"""A file still under its temporary name after so long is the remains of a killed process."""


class ShardCache:
    """Bounded by size: the least recently used go first, or the oldest where a store keeps no time of use.

    Any number of processes may use one at once: entries appear whole, and one that another process has just removed is
    a miss.
    """

    def __init__(self, url: str, max_bytes: int) -> None:
        """Raises ValueError if this machine cannot open such a store, or max_bytes < 1."""
        if max_bytes < 1:
            raise ValueError(f"a cache must be allowed at least one byte, got {max_bytes}")
        self.url = url
        self._max_bytes = max_bytes
        self._fs, self._root = open_root(url)

    def read(self, streams: ByteStreams, shard: Shard) -> Buffer | None:
        """Its bytes as they were written, or None."""
        path = self._path(shard)
        try:
            data = read_shard(streams, self._fs, path, shard)
        except FileNotFoundError:
            return None
        except Damaged as error:
            log.warning("cache %s: %s dropped, %s", self.url, path, error)
            with suppress(OSError):
                self._fs.rm_file(path)
            return None
        except OSError as error:
            log.warning("cache %s: %s cannot be read: %s", self.url, path, error)
            return None
        if isinstance(self._fs, LocalFileSystem):  # object stores keep no time of use
            with suppress(OSError):
                os.utime(path)  # and not fsspec's touch: it makes anew, empty, what another process has just removed
        return data

    def put(self, shard: Shard, data: Buffer) -> None:
        """Keeps it, unless it is larger than the whole cache, and makes room behind it."""
        if shard.size > self._max_bytes:
            log.warning(
                "cache %s: a shard of %d bytes is not kept, it may have %d", self.url, shard.size, self._max_bytes
            )
            return
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            write_whole(self._fs, self._path(shard), _cut(data.data))
            self._evict(newest=self._path(shard))
        except (OSError, NotImplementedError) as error:
            log.warning("cache %s: %s", self.url, error)

    def _path(self, shard: Shard) -> str:
        return f"{self._root}/{shard.blake2b}{SUFFIX}"

    def _evict(self, newest: str) -> None:
        self._fs.invalidate_cache(self._root)
        files = [entry for entry in self._fs.ls(self._root, detail=True) if entry["type"] == "file"]
        for entry in files:
            if entry["name"].endswith(TEMPORARY) and datetime.now(UTC) - self._age(entry["name"]) > ABANDONED:
                self._remove(entry["name"])
        sizes = {entry["name"]: entry["size"] for entry in files if entry["name"].endswith(SUFFIX)}
        excess = sum(sizes.values()) - self._max_bytes
        if excess <= 0:
            return
        others = [name for name in sizes if name != newest]
        for name in sorted(others, key=self._age):
            self._remove(name)
            excess -= sizes[name]
            if excess <= 0:
                return

    def _age(self, path: str) -> datetime:
        """When it was last used; the beginning of time for what another process has removed meanwhile."""
        try:
            modified: datetime = self._fs.modified(path)
        except FileNotFoundError:
            return datetime.min.replace(tzinfo=UTC)
        return modified if modified.tzinfo else modified.replace(tzinfo=UTC)

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(path)


def _cut(data: memoryview) -> Iterator[memoryview]:
    return (data[begin : begin + PIECE_BYTES] for begin in range(0, len(data), PIECE_BYTES))
