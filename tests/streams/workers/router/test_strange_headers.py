"""Headers whose names are no text, in batches as a broker hands them out: aiokafka's reader ends at them."""

from typing import Any

import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from streams.workers.router.strange_headers import _Records

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
"""What `compression.type` may make of a batch: who sets it for all clients, sets it for what `rewards` reads."""


class Name(str):
    """What a careless client in another language sends."""

    def encode(self, *_: Any) -> bytes:
        return b"x\xff"


def batch(*headers: tuple[str, bytes], first: int, codec: int) -> bytes:
    """Three records; the second has these headers."""
    builder = _DefaultRecordBatchBuilderPy(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=99_999,
    )  # fmt: skip
    for number in range(3):
        with_headers = list(headers) if number == 1 else [("good", b"1")]
        assert builder.append(number, 7, b"k", b"v%d" % (first + number), with_headers) is not None
    made = builder.build()
    made[:8] = first.to_bytes(8, "big")  # the base offset, which the broker sets
    return bytes(made)


def read(records: Any) -> list[Any]:
    return list(PartitionRecords(TopicPartition("t", 0), records, [], 0, None, None, True, 1))


@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
def test_a_record_with_a_strange_header_comes_as_any_other(codec: int) -> None:
    fetched = batch(("content-type", b"c"), (Name("?"), b"v"), first=0, codec=codec) + batch(first=3, codec=codec)
    with pytest.raises(UnicodeDecodeError):
        read(MemoryRecords(fetched))
    found = read(_Records(fetched))
    assert [(r.offset, r.value) for r in found] == [(n, b"v%d" % n) for n in range(6)]
    assert found[1].headers == (("content-type", b"c"), ("x\ufffd", b"v"))
    assert [r.headers for r in found if r.offset not in (1, 4)] == [(("good", b"1"),)] * 4


def test_other_batches_are_read_as_they_were() -> None:
    fetched = batch(("a", b"1"), first=0, codec=0) + batch(first=3, codec=0)
    assert read(_Records(fetched)) == read(MemoryRecords(fetched))
    assert read(_Records(fetched[:-1])) == read(MemoryRecords(fetched[:-1])), "the last batch was cut by the fetch"
