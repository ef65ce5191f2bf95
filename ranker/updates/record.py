"""The record of the weight-update log: an envelope of our own around safetensors. Knows nothing of Kafka.

Little-endian:

    magic "TIDE" | version u8 | flags u8, 0 | reserved u16, 0 | header length u32 | header, JSON with sorted keys
    | body length u32 | body, safetensors without metadata (its order would be random), or nothing
    | checksum, 8 bytes: BLAKE2b of all before

A header opens an epoch or belongs to one part of one update. Tensors of the body, by name; what a large update has in
several parts is joined along its first axis, in the order of the parts:

    rows/<table>/keys u64 [K]     rows/<table>/rows i64 [K]     rows/<table>/values [K, D]
    tails/<table>/rows i64 [W]    tails/<table>/values [W, D]
    evicted/<table>/keys u64 [V]
    catalogue/<table>/keys u64 [C]    catalogue/<table>/values u64 [C, S]
    dense/<tier>/<name>

Values are floats, or int8 rows with scales beside them (ranker/updates/encoding.py): rows/<table>/scales f32 [K],
tails/<table>/scales f32 [W], dense_scales/<tier>/<name> f32.

Errors, and what a reader does about each:

    UpdateError            not a usable record
      MalformedRecord      nothing can be said about it, not even whose it is: skip it and count it
      DamagedRecord        its header can be read (`.header`), checksum or body are wrong: a fault if its epoch is live
"""

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
import safetensors.torch
import torch
from msgspec import Meta, Struct
from safetensors import SafetensorError
from torch import Tensor

from ranker.updates.changes import Changes, TableChange
from ranker.updates.encoding import Encoded
from ranker.updates.parts import split
from ranker.updates.tensor_file import pieces

MAGIC = b"TIDE"
VERSION = 1
MAX_RECORD_BYTES = 8_000_000
MAX_HEADER_BYTES = 65_536
MAX_PARTS = 4096
MAX_CLICKS = 256
_FRONT = struct.Struct("<4sBBHI")
_LENGTH = struct.Struct("<I")
_CHECKSUM_BYTES = 8

Count = Annotated[int, Meta(ge=0, le=2**53)]
Name = Annotated[str, Meta(max_length=128)]
Hex = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class Open(Struct, frozen=True, kw_only=True, tag_field="kind", tag="open"):
    """A trainer takes over: what older epochs write after this is void. Of two opens of an epoch the first counts."""

    epoch: Count
    digest: Name
    """Digest of the configuration."""
    trainer: Name
    """A string that no other trainer has."""
    created_ms: Count
    base: tuple[Count, Count] | None = None
    """(epoch, number) that the epoch builds on: its first update holds all that the log changed after that.
    None: it builds on nothing, its first update is of a new model."""


class UpdateHeader(Struct, frozen=True, kw_only=True, tag_field="kind", tag="update"):
    epoch: Count
    number: Annotated[int, Meta(ge=1, le=2**53)]
    """Number of the update: from 1 in each epoch, without gaps."""
    previous: Count
    part: Annotated[int, Meta(ge=0, lt=MAX_PARTS)] = 0
    parts: Annotated[int, Meta(ge=1, le=MAX_PARTS)] = 1
    digest: Name
    trainer: Name
    reset: bool = False
    """Start from the initial weights of the configuration, whatever was held before."""
    offsets: dict[str, Count] = {}
    """Next offset of training.examples by partition: what these weights have learned."""
    watermark_ms: Count = 0
    begun_ms: Count = 0
    created_ms: Count = 0
    """When the step that taught it began, and when it was made; by the trainer's clock."""
    clicks_ms: Annotated[list[Count], Meta(max_length=MAX_CLICKS)] = []
    """Broker timestamps of clicks that it learned from: some, where there were many."""
    grades: dict[str, float] | None = None
    quarantined: dict[str, tuple[Count, Count]] = {}
    """Offsets [first, next) of training.examples by partition that the gate has kept out, since the update before."""
    ranges: dict[str, tuple[Hex, Hex]] = {}
    """Lowest and highest key of each table in this part."""

    def __post_init__(self) -> None:
        if self.grades is not None and not all(math.isfinite(grade) for grade in self.grades.values()):
            raise ValueError(f"grades must be finite, got {self.grades}; leave out what is not known")


Header = Open | UpdateHeader
_HEADERS = msgspec.json.Decoder(Header)
_ENCODER = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class Record:
    header: Header
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Update:
    """A whole update. `header` has part 0 of 1 and no ranges: those belong to records."""

    header: UpdateHeader
    changes: Changes


class UpdateError(Exception):
    """Base. The bytes are not a usable record."""


class MalformedRecord(UpdateError):
    """Not one of our records, or its header cannot be read."""


class DamagedRecord(UpdateError):
    """The header can be read, the rest is wrong."""

    def __init__(self, message: str, header: Header) -> None:
        super().__init__(message)
        self.header = header


def encode_open(header: Open) -> bytes:
    return _seal(header, {})


def encode_update(update: Update, max_bytes: int = 900_000) -> list[bytes]:
    """The records of an update, each at most max_bytes; to be appended in order.

    Raises ValueError if one row of a tensor does not fit, or there would be more than MAX_PARTS parts.
    """
    header = update.header
    parts = split(update.changes, max_bytes - _overhead(header, update.changes))
    if len(parts) > MAX_PARTS:
        raise ValueError(f"an update may have {MAX_PARTS} parts, this one needs {len(parts)}; raise max_bytes")
    return [
        _seal(msgspec.structs.replace(header, part=i, parts=len(parts), ranges=_ranges(tensors)), tensors)
        for i, tensors in enumerate(parts)
    ]


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A record whose header has been read, and neither its body nor its checksum."""

    header: Header
    _data: bytes
    _header_end: int

    def check(self) -> None:
        """Raises DamagedRecord where the checksum or the body's length is wrong."""
        if _checksum(self._data[:-_CHECKSUM_BYTES]) != self._data[-_CHECKSUM_BYTES:]:
            raise DamagedRecord("the checksum does not match the record", self.header)
        (length,) = _LENGTH.unpack_from(self._data, self._header_end)
        if self._header_end + _LENGTH.size + length + _CHECKSUM_BYTES != len(self._data):
            raise DamagedRecord("the body's length does not match the record's", self.header)

    def unpack(self) -> Record:
        """The record with its tensors. Raises DamagedRecord."""
        self.check()
        body = self._data[self._header_end + _LENGTH.size : -_CHECKSUM_BYTES]
        try:
            return Record(self.header, safetensors.torch.load(body) if body else {})
        except (SafetensorError, KeyError, ValueError, RuntimeError) as exc:
            raise DamagedRecord(f"the body is not safetensors: {exc}", self.header) from exc


def read_header(data: bytes) -> SealedRecord:
    """Raises MalformedRecord."""
    if not _FRONT.size + _LENGTH.size + _CHECKSUM_BYTES <= len(data) <= MAX_RECORD_BYTES:
        raise MalformedRecord(f"a record has at most {MAX_RECORD_BYTES} bytes and more than its envelope: {len(data)}")
    magic, version, _, _, length = _FRONT.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise MalformedRecord(f"want {MAGIC!r} version {VERSION}, got {magic!r} version {version}")
    end = _FRONT.size + length
    if length > MAX_HEADER_BYTES or end + _LENGTH.size + _CHECKSUM_BYTES > len(data):
        raise MalformedRecord(f"a header of {length} bytes in a record of {len(data)}")
    try:
        return SealedRecord(_HEADERS.decode(data[_FRONT.size : end]), data, end)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:  # the tag of a kind is decoded before it is checked
        raise MalformedRecord(f"header: {exc}") from exc


def peek_header(data: bytes) -> Header:
    """The header, without a look at the body or the checksum. Raises MalformedRecord."""
    return read_header(data).header


def decode_record(data: bytes) -> Record:
    """Inverse of one of encode_update's records, or of encode_open. Raises MalformedRecord or DamagedRecord."""
    return read_header(data).unpack()


def assemble(records: list[Record]) -> Update:
    """The update of which these are all parts, in order. Raises DamagedRecord if tensors are missing or misshapen."""
    header = records[0].header
    if not isinstance(header, UpdateHeader):
        raise DamagedRecord("an open is not a part of an update", header)
    names: dict[str, list[Tensor]] = {}
    for record in records:
        for name, tensor in record.tensors.items():
            names.setdefault(name, []).append(tensor)
    try:
        tensors = {name: torch.cat(pieces) if len(pieces) > 1 else pieces[0] for name, pieces in names.items()}
        return Update(msgspec.structs.replace(header, part=0, parts=1, ranges={}), _changes(tensors))
    except (RuntimeError, TypeError, ValueError) as exc:
        raise DamagedRecord(f"tensors do not make an update: {exc}", header) from exc


def _changes(tensors: dict[str, Tensor]) -> Changes:
    rest = dict(tensors)
    dense = {
        name: Encoded(rest.pop(f"dense/{name}"), rest.pop(f"dense_scales/{name}", None))
        for name in [full.removeprefix("dense/") for full in tensors if full.startswith("dense/")]
    }
    tables = {}
    for table in sorted({name.split("/", 1)[1].rsplit("/", 1)[0] for name in rest if name.count("/") >= 2}):
        values, tails = (
            Encoded(rest.pop(f"{kind}/{table}/values", torch.empty(0, 0)), rest.pop(f"{kind}/{table}/scales", None))
            for kind in ("rows", "tails")
        )
        entries = rest.pop(f"catalogue/{table}/values", torch.empty((0, 0), dtype=torch.uint64))
        if entries.ndim != 2 or entries.dtype != torch.uint64:
            raise ValueError(f"catalogue/{table}/values must be u64 [C, S], got {entries.dtype} {list(entries.shape)}")
        tables[table] = TableChange(
            keys_K=_vector(rest, f"rows/{table}/keys", torch.uint64, len(values)).numpy(),
            rows_K=_vector(rest, f"rows/{table}/rows", torch.int64, len(values)).numpy(),
            values_KD=values,
            tails_W=_vector(rest, f"tails/{table}/rows", torch.int64, len(tails)).numpy(),
            tail_values_WD=tails,
            evicted_V=_vector(rest, f"evicted/{table}/keys", torch.uint64, None).numpy(),
            catalogued_C=_vector(rest, f"catalogue/{table}/keys", torch.uint64, len(entries)).numpy(),
            entry_CS=entries.numpy(),
        )
    if rest:
        raise ValueError(f"unknown names {sorted(rest)[:5]}")
    return Changes(tables, dense)


def _vector(tensors: dict[str, Tensor], name: str, dtype: torch.dtype, length: int | None) -> Tensor:
    vector = tensors.pop(name, torch.empty(0, dtype=dtype))
    if vector.ndim != 1 or vector.dtype != dtype or (length is not None and len(vector) != length):
        raise ValueError(f"{name} must be {dtype} [{length}], got {vector.dtype} {list(vector.shape)}")
    return vector


def _ranges(tensors: dict[str, Tensor]) -> dict[str, tuple[str, str]]:
    keys: dict[str, list[np.ndarray]] = {}
    for name, tensor in tensors.items():
        if name.endswith("/keys") and not name.startswith("dense") and len(tensor):
            keys.setdefault(name.split("/", 1)[1].removesuffix("/keys"), []).append(tensor.numpy())
    return {
        table: (f"{min(k.min() for k in arrays):016x}", f"{max(k.max() for k in arrays):016x}")
        for table, arrays in keys.items()
    }


def _overhead(header: UpdateHeader, changes: Changes) -> int:
    """Bytes of a record that are not its tensors, at most."""
    longest = msgspec.structs.replace(
        header, part=MAX_PARTS - 1, parts=MAX_PARTS, ranges=dict.fromkeys(changes.tables, ("f" * 16, "f" * 16))
    )
    return _FRONT.size + len(_ENCODER.encode(longest)) + _LENGTH.size + _CHECKSUM_BYTES


def _seal(header: Header, tensors: dict[str, Tensor]) -> bytes:
    text = _ENCODER.encode(header)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"a header may have {MAX_HEADER_BYTES} bytes, got {len(text)}")
    body = b"".join(pieces(tensors)) if tensors else b""
    front = _FRONT.pack(MAGIC, VERSION, 0, 0, len(text))
    record = b"".join((front, text, _LENGTH.pack(len(body)), body))
    return record + _checksum(record)


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM_BYTES).digest()
