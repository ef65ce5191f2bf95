"""The bytes of a user's log: one Redis string. Knows struct; Redis changes these bytes in lua/log.lua only.

    0         1          2      4          8            16       24                 24 + 8·tags
    | version | reserved | tags | capacity | generation | count  | tag ring         | record ring             |
    | u8 = 1  | u8 = 0   | u16  | u32      | u64        | u64    | tags × u64       | capacity × 16 bytes     |

Little-endian. count is of all events ever appended; event number s (from 0) has its record in place s % capacity and
its tag in place s % tags. generation is drawn when the log is created, in 1..2**63 - 1. A log grows by being written
anew at the next of a few sizes (`growth_steps`), never by SETRANGE past its end, for which Redis would allocate double.
"""

import secrets
import struct
from dataclasses import dataclass

from feature_store.config import LogConfig
from feature_store.events import RECORD_BYTES

VERSION = 1
HEADER_BYTES = 24
TAG_BYTES = 8

_HEADER = struct.Struct("<BBHIQQ")
_GENERATION = struct.Struct("<Q")
_ALLOCATIONS = (448, 640)
"""Bytes. These and their doubles are every second size class of jemalloc."""
_STRING_OVERHEAD = 6
"""Bytes of Redis' own string header and terminator (lengths of 256 to 65,535)."""


@dataclass(frozen=True, slots=True)
class Header:
    tags: int
    capacity: int
    generation: int
    count: int


def encode_header(header: Header) -> bytes:
    return _HEADER.pack(VERSION, 0, header.tags, header.capacity, header.generation, header.count)


def decode_header(stored: bytes) -> Header:
    """Inverse of encode_header. Raises ValueError if the bytes are not a header of this version."""
    if len(stored) != HEADER_BYTES or stored[0] != VERSION:
        raise ValueError(
            f"want {HEADER_BYTES} bytes, the first {VERSION}; got {len(stored)}, the first {stored[:1].hex() or 'none'}"
        )
    _, _, tags, capacity, generation, count = _HEADER.unpack(stored)
    return Header(tags, capacity, generation, count)


def growth_steps(config: LogConfig) -> tuple[int, ...]:
    """Capacities a log grows through, in records, the last one full.

    They are what fits 448, 640, 896, 1280, 1792 … bytes, which are size classes of jemalloc, so that rounding wastes
    nothing; a log is written anew twice per doubling, and is on average four fifths full.
    """
    steps = []
    allocation, following = _ALLOCATIONS
    while (records := _records_in(allocation, config.tags)) < config.capacity:
        steps.append(records)
        allocation, following = following, 2 * allocation
    return (*steps, config.capacity)


def _records_in(allocation: int, tags: int) -> int:
    room = allocation - HEADER_BYTES - _STRING_OVERHEAD
    records = room // (RECORD_BYTES + TAG_BYTES)
    return records if records <= tags else (room - TAG_BYTES * tags) // RECORD_BYTES


def draw_generation() -> bytes:
    """8 bytes for a log that may be created now."""
    return encode_generation(1 + secrets.randbelow(2**63 - 1))


def encode_generation(generation: int) -> bytes:
    return _GENERATION.pack(generation)


def decode_generation(stored: bytes) -> int:
    (generation,) = _GENERATION.unpack(stored)
    return int(generation)
