"""Records whose headers have names that are not UTF-8, for aiokafka: it fails on them, and Faust ends with it.

A batch is read by aiokafka's own fast reader; from the record on that this one fails at, by its plain one, which is
given bytes that decode to something in any case. The record then comes as any other, its strange names with the sign
for what is no text in them.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_LENGTH_AT = 8
_BEFORE_LENGTH = 12


def let_strange_headers_pass() -> None:
    """For all consumers of this process, as aiokafka's fetcher takes no reader from outside."""
    fetcher.MemoryRecords = _Records


class _Records:
    """Batches of one fetch, as aiokafka's MemoryRecords, each with its bytes."""

    def __init__(self, fetched: bytes) -> None:
        self._fetched = fetched
        self._at = 0
        self._records = MemoryRecords(fetched)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def next_batch(self) -> "_Batch":
        (length,) = struct.unpack_from(">i", self._fetched, self._at + _LENGTH_AT)
        begin, self._at = self._at, self._at + _BEFORE_LENGTH + length
        return _Batch(self._records.next_batch(), self._fetched[begin : self._at])


class _Batch:
    def __init__(self, batch: Any, blob: bytes) -> None:
        self._batch = batch
        self._blob = blob

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._batch:
                yield record
                read += 1
        except UnicodeDecodeError:
            plain = _DefaultRecordBatchPy(self._blob)
            plain._maybe_uncompress()
            plain._buffer = _Decodable(plain._buffer)
            yield from islice(plain, read, None)


class _Decodable(bytearray):
    def __getitem__(self, place: Any) -> Any:
        part = super().__getitem__(place)
        return _Decodable(part) if isinstance(place, slice) else part

    def decode(self, *_: Any, **__: Any) -> str:
        return bytes(self).decode("utf-8", "replace")
