"""One event of the user log and its stored form. Knows numpy and hashing; knows nothing of Redis.

The record, 16 bytes, little-endian:

    0        4                12       13        14       16
    | time_s | item           | action | surface | value  |
    | u32    | u64            | u8     | u8      | f16    |

time_s is seconds since the Unix epoch, item the 64-bit id of the item, action and surface codes below 32 (they are
rows of embedding tables), value what the event was worth in the caller's unit, to half precision.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

RECORD_BYTES = 16
EVENT_DTYPE = np.dtype(
    [("time_s", "<u4"), ("item", "<u8"), ("action", "u1"), ("surface", "u1"), ("value", "<f2")], align=False
)
CODES = 32
"""Action and surface codes are below this. Action 0 is no event: the padding of a batch of logs."""

_RECORD = struct.Struct("<IQBBe")
_F16_MAX = 65504.0
_ACTIONS = {"impression": 1, "click": 2, "search": 3, "add_to_cart": 4, "purchase": 5}
_FIRST_HASHED_ACTION = 16


def without_item(record: bytes) -> bytes:
    """The rest of a record: what tells events of unknown items apart."""
    return record[:4] + record[12:]


def with_item_of(record: bytes, shown: bytes) -> bytes:
    """The record of an action, of the item of another record."""
    return record[:4] + shown[4:12] + record[12:]


@dataclass(frozen=True, slots=True)
class LogEvent:
    time_s: int
    item: int
    action: int
    surface: int = 0
    value: float = 0.0


def action_code(kind: str) -> int:
    """The code of a kind of event: 1 to 5 for those we name, 16 to 31 by hash for all others."""
    known = _ACTIONS.get(kind)
    if known is not None:
        return known
    return _FIRST_HASHED_ACTION + xxhash.xxh3_64_intdigest(kind.encode()) % (CODES - _FIRST_HASHED_ACTION)


def action_name(code: int) -> str:
    """The kind of event that has this code; of one by hash, its number."""
    return next((kind for kind, known in _ACTIONS.items() if known == code), f"action {code}")


def surface_code(name: str) -> int:
    """The code of a surface, by hash, in 0..31."""
    return xxhash.xxh3_64_intdigest(name.encode()) % CODES


def encode_event(event: LogEvent) -> bytes:
    """The 16 stored bytes. A value beyond half precision's range is stored as the nearest that fits (65504).

    Raises ValueError if a field does not fit its width or the value is not a number.
    """
    if not (0 <= event.time_s < 2**32 and 0 <= event.item < 2**64):
        raise ValueError(f"time_s must fit u32 and item u64, got {event}; time is in seconds, not milliseconds")
    if not (0 <= event.action < CODES and 0 <= event.surface < CODES):
        raise ValueError(f"action and surface must be in 0..{CODES - 1}, got {event}; use action_code, surface_code")
    if math.isnan(event.value):
        raise ValueError(f"value must be a number, got {event}")
    value = min(max(event.value, -_F16_MAX), _F16_MAX)
    return _RECORD.pack(event.time_s, event.item, event.action, event.surface, value)


def decode_events(stored: bytes) -> npt.NDArray[Any]:
    """[n] EVENT_DTYPE, a read-only view of n records back to back. Raises ValueError on a broken record."""
    if len(stored) % RECORD_BYTES:
        raise ValueError(f"records are {RECORD_BYTES} bytes each, got {len(stored)} bytes")
    return np.frombuffer(stored, EVENT_DTYPE)
