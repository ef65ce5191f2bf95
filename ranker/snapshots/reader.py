"""Where shards are read from: caches first, the snapshot's own store last; by many streams, every digest checked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ranker.snapshots.byte_streams import ByteStreams
from ranker.snapshots.cache import ShardCache
from ranker.snapshots.shards import Damaged, Shard, checked_pieces, read_shard
from ranker.snapshots.store import open_root, write_whole
from ranker.updates.tensor_file import Buffer, tensors_of

DEFAULT_STREAMS = 8


class SnapshotError(Exception):
    """A snapshot that cannot be used: incomplete, or changed since it was written."""


class ShardReader:
    """Memory: the shards that are asked for, once, and what the streams read ahead (ByteStreams)."""

    def __init__(self, streams: int = DEFAULT_STREAMS, caches: Sequence[ShardCache] = ()) -> None:
        """caches: nearest first. Raises ValueError if streams < 1."""
        if streams < 1:
            raise ValueError(f"shards are read by at least one stream, got {streams}")
        self._streams = streams
        self._caches = tuple(caches)

    def load(self, url: str, shards: Sequence[Shard]) -> dict[str, Tensor]:
        """All their tensors. Raises SnapshotError, naming the file, if one is missing, short or changed."""
        fs, folder = open_root(url)
        tensors: dict[str, Tensor] = {}
        with ByteStreams(self._streams) as streams:

            def load_one(shard: Shard) -> dict[str, Tensor]:
                with _named(url, shard):
                    return tensors_of(self._bytes(streams, fs, f"{folder}/{shard.file}", shard))

            for found in streams.each(load_one, shards):
                tensors |= found
        return tensors

    def verify(self, url: str, shards: Sequence[Shard], read: Callable[[int], None] = lambda size: None) -> list[str]:
        """What is wrong with the snapshot's own files, a line each; the caches are not asked.

        read: is told the size of each piece, from several threads.
        """
        fs, folder = open_root(url)
        with ByteStreams(self._streams) as streams:

            def verify_one(shard: Shard) -> list[str]:
                try:
                    with _named(url, shard):
                        for piece in checked_pieces(streams, fs, f"{folder}/{shard.file}", shard):
                            read(len(piece))
                except SnapshotError as error:
                    return [str(error)]
                return []

            return [problem for problems in streams.each(verify_one, shards) for problem in problems]

    def copy(
        self, url: str, shards: Sequence[Shard], target: str, read: Callable[[int], None] = lambda size: None
    ) -> None:
        """Checked on the way: a file appears in `target`, a folder that is there, only if it is what was written.

        Raises SnapshotError as load does, and what the target's store raises.
        """
        fs, folder = open_root(url)
        to_fs, to_folder = open_root(target)
        with ByteStreams(self._streams) as streams:

            def copy_one(shard: Shard) -> None:
                pieces = self._named_pieces(streams, fs, url, folder, shard)
                write_whole(to_fs, f"{to_folder}/{shard.file}", _counted(pieces, read))

            for _ in streams.each(copy_one, shards):
                pass

    def _named_pieces(self, streams: ByteStreams, fs: Any, url: str, folder: str, shard: Shard) -> Iterator[bytes]:
        with _named(url, shard):
            yield from checked_pieces(streams, fs, f"{folder}/{shard.file}", shard)

    def _bytes(self, streams: ByteStreams, fs: Any, path: str, shard: Shard) -> Buffer:
        """From the nearest that has it; who was asked before and did not gets it."""
        lacking = []
        for cache in self._caches:
            data = cache.read(streams, shard)
            if data is not None:
                break
            lacking.append(cache)
        else:
            data = read_shard(streams, fs, path, shard)
        for cache in lacking:
            cache.put(shard, data)
        return data


def _counted(pieces: Iterator[bytes], read: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        read(len(piece))
        yield piece


@contextmanager
def _named(url: str, shard: Shard) -> Iterator[None]:
    """What went wrong in the block, by the file's name, and what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise SnapshotError(f"{url} lacks {shard.file}: take an older snapshot") from error
    except (Damaged, ValueError) as error:
        raise SnapshotError(
            f"{url}/{shard.file} is not what was written: {error}; take an older snapshot, or put back a copy"
        ) from error
    except OSError as error:
        raise SnapshotError(
            f"{url}/{shard.file} cannot be read: {error}; mend the store, or take an older snapshot"
        ) from error
