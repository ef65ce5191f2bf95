"""The shards of a snapshot: files of tensors, with digests made while they are written and checked on reading."""

import hashlib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from torch import Tensor

from ranker.snapshots.byte_streams import ByteStreams
from ranker.snapshots.store import flush
from ranker.updates.tensor_file import Buffer, pieces

MAX_SHARD_BYTES = 256_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A file of a snapshot. The names are checked on decoding: they become paths of stores and of caches."""

    file: Annotated[str, Meta(pattern=r"^[a-z]+-[0-9]{5,9}\.safetensors$")]
    size: Annotated[int, Meta(ge=0, le=2**45)]
    blake2b: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class Damaged(Exception):
    """A file that is not the shard that was written. The message says by what."""


def write_shards(
    fs: Any, folder: str, part: str, tensors: dict[str, Tensor], go_on: Callable[[], None] = lambda: None
) -> list[Shard]:
    """Write in one pass over the tensors' own memory. go_on: called before each piece; what it raises ends it."""
    shards: list[Shard] = []
    for group in _groups(tensors):
        name, digest, size = f"{part}-{len(shards):05d}.safetensors", _new_digest(), 0
        with fs.open(f"{folder}/{name}", "wb") as file:
            for piece in pieces(group):
                go_on()
                digest.update(piece)
                file.write(piece)
                size += len(piece)
            flush(fs, file)
        shards.append(Shard(file=name, size=size, blake2b=digest.hexdigest()))
    return shards


def read_shard(streams: ByteStreams, fs: Any, path: str, shard: Shard) -> Buffer:
    """Its bytes. Memory is taken once the store says that the file has the size that the manifest promises.

    Raises Damaged, FileNotFoundError, and what else the store raises.
    """
    _check_size(fs, path, shard)
    data: Buffer = np.empty(shard.size, np.uint8)
    end = 0
    for piece in checked_pieces(streams, fs, path, shard):
        begin, end = end, end + len(piece)
        data[begin:end] = np.frombuffer(piece, np.uint8)
    return data


def checked_pieces(streams: ByteStreams, fs: Any, path: str, shard: Shard) -> Generator[bytes, None, None]:
    """Its bytes in order; raises as read_shard does, Damaged at the end at the latest."""
    _check_size(fs, path, shard)
    digest, size = _new_digest(), 0
    with closing(streams.read(fs, path, shard.size)) as read:
        for piece in read:
            size += len(piece)
            if size > shard.size:
                break
            digest.update(piece)
            yield piece
    if size != shard.size:
        raise Damaged(f"it ends after {size:,} bytes of {shard.size:,}")
    if digest.hexdigest() != shard.blake2b:
        raise Damaged(f"its digest is {digest.hexdigest()}, {shard.blake2b} was written")


def _check_size(fs: Any, path: str, shard: Shard) -> None:
    if (size := fs.info(path)["size"]) != shard.size:
        raise Damaged(f"it has {size:,} bytes, {shard.size:,} were written")


def _groups(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """In order of their names, each group at most MAX_SHARD_BYTES unless one tensor is larger."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in sorted(tensors.items()):
        if groups[-1] and size + tensor.nbytes > MAX_SHARD_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    return groups


def _new_digest() -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=16)
