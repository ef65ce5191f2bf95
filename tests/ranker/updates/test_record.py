import dataclasses

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.updates.changes import Changes, TableChange
from ranker.updates.encoding import Encoded, encode
from ranker.updates.record import (
    MAX_RECORD_BYTES,
    DamagedRecord,
    MalformedRecord,
    Open,
    Update,
    UpdateError,
    UpdateHeader,
    assemble,
    decode_record,
    encode_open,
    encode_update,
    peek_header,
)

HEADER = UpdateHeader(
    epoch=3,
    number=8,
    previous=7,
    digest="d",
    trainer="t",
    offsets={"0": 5},
    watermark_ms=11,
    created_ms=12,
    grades={"served": 0.5},
)
OPEN = Open(epoch=3, digest="d", trainer="t", created_ms=9, base=(2, 40))


def table(keys: int = 3, tails: int = 2, evicted: int = 2, width: int = 4) -> TableChange:
    torch.manual_seed(keys)
    return TableChange(
        keys_K=np.arange(2**63, 2**63 + keys, dtype=np.uint64),
        rows_K=np.arange(keys)[::-1].copy(),
        values_KD=Encoded(torch.randn(keys, width).bfloat16()),
        tails_W=np.arange(tails),
        tail_values_WD=Encoded(torch.randn(tails, width).bfloat16()),
        evicted_V=np.arange(evicted, dtype=np.uint64),
    )


def changes(**sizes: int) -> Changes:
    torch.manual_seed(0)
    dense = {"light/out": torch.randn(5, 3), "light/scale": torch.tensor(2.0), "heavy/w": torch.randn(300).bfloat16()}
    encoded = {name: Encoded(tensor) for name, tensor in dense.items()}
    encoded["heavy/rounded"] = encode(torch.randn(40, 7), "int8")
    return Changes({"items": table(**sizes), "a/b": table()}, encoded)


def assert_equal(a: Changes, b: Changes) -> None:
    assert a.dense.keys() == b.dense.keys()
    for name in a.dense:
        assert_same(a.dense[name], b.dense[name])
    assert a.tables.keys() == b.tables.keys()
    for name in a.tables:
        for part in dataclasses.fields(TableChange):
            x, y = getattr(a.tables[name], part.name), getattr(b.tables[name], part.name)
            if isinstance(x, Encoded):
                assert_same(x, y)
            else:
                assert x.dtype == y.dtype
                assert x.tolist() == y.tolist()


def assert_same(a: Encoded, b: Encoded) -> None:
    assert a.data.dtype == b.data.dtype
    assert torch.equal(a.data, b.data)
    assert torch.equal(a.decode(), b.decode())


def test_stored_bytes_never_change() -> None:
    small = Changes({"i": TableChange(
        keys_K=np.array([7], np.uint64),
        rows_K=np.array([2]),
        values_KD=Encoded(torch.tensor([[1.0, -2.0]]).bfloat16()),
        tails_W=np.array([1]),
        tail_values_WD=Encoded(torch.tensor([[0.5, 0.25]]).bfloat16()),
        evicted_V=np.array([9], np.uint64),
    )}, {"light/b": Encoded(torch.tensor([3.0]))})  # fmt: skip
    (record,) = encode_update(Update(HEADER, small))
    assert record.hex() == FROZEN_UPDATE
    assert encode_open(OPEN).hex() == FROZEN_OPEN
    for stored in (FROZEN_UPDATE, FROZEN_BEFORE_BEGUN, FROZEN_AT_FIRST):
        update = assemble([decode_record(bytes.fromhex(stored))])
        assert update.header == HEADER
        assert_equal(update.changes, small)


def test_an_update_comes_back_as_it_was() -> None:
    (record,) = encode_update(Update(HEADER, changes()))
    update = assemble([decode_record(record)])
    assert update.header == HEADER
    assert_equal(update.changes, changes())
    assert decode_record(encode_open(OPEN)).header == OPEN


def test_an_update_without_changes_is_one_record() -> None:
    (record,) = encode_update(Update(HEADER, Changes()))
    assert_equal(assemble([decode_record(record)]).changes, Changes())


@pytest.mark.parametrize("max_bytes", [1_600, 2_500, 20_000])
def test_a_large_update_is_cut_and_joined(max_bytes: int) -> None:
    update = Update(HEADER, changes(keys=700, tails=300, evicted=500))
    records = encode_update(update, max_bytes=max_bytes)
    assert len(records) > 1
    assert max(map(len, records)) <= max_bytes
    assert min(map(len, records[:-1])) > max_bytes / 2  # records are filled
    headers = [peek_header(record) for record in records]
    assert [h.part for h in headers if isinstance(h, UpdateHeader)] == list(range(len(records)))
    assert_equal(assemble([decode_record(record) for record in records]).changes, update.changes)


def test_ranges_hold_every_key_of_their_record() -> None:
    for data in encode_update(Update(HEADER, changes(keys=700, evicted=500)), max_bytes=2_500):
        record = decode_record(data)
        assert isinstance(record.header, UpdateHeader)
        seen: dict[str, list[int]] = {}
        for name, tensor in record.tensors.items():
            if name.endswith("/keys"):
                seen.setdefault(name.split("/", 1)[1].removesuffix("/keys"), []).extend(tensor.numpy().tolist())
        assert {t: (f"{min(k):016x}", f"{max(k):016x}") for t, k in seen.items()} == record.header.ranges


def test_a_row_larger_than_a_record_is_refused() -> None:
    with pytest.raises(ValueError, match="one row of"):
        encode_update(Update(HEADER, Changes({}, {"light/w": Encoded(torch.zeros(2, 1000))})), max_bytes=2_000)


def test_every_corrupted_byte_is_noticed() -> None:
    for good in (encode_update(Update(HEADER, changes()))[0], encode_open(OPEN)):
        for position in range(len(good)):
            bad = bytearray(good)
            bad[position] ^= 0x55
            with pytest.raises(UpdateError):
                decode_record(bytes(bad))


def test_every_truncation_is_noticed() -> None:
    (good,) = encode_update(Update(HEADER, changes()))
    for length in range(len(good)):
        with pytest.raises(UpdateError):
            decode_record(good[:length])
    with pytest.raises(DamagedRecord):
        decode_record(good + b"x")


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.booleans())
def test_noise_is_malformed(noise: bytes, with_magic: bool) -> None:
    with pytest.raises(MalformedRecord):
        decode_record(b"TIDE\x01" * with_magic + noise)


def test_a_damaged_body_still_says_whose_it_is() -> None:
    (good,) = encode_update(Update(HEADER, changes()))
    with pytest.raises(DamagedRecord, match="checksum") as caught:
        decode_record(good[:-1] + bytes([good[-1] ^ 1]))
    assert isinstance(caught.value.header, UpdateHeader)
    assert caught.value.header.number == 8


@pytest.mark.parametrize(
    "change",
    [{"number": 0}, {"epoch": -1}, {"epoch": 2**60}, {"trainer": "x" * 129}, {"offsets": {"0": -1}}],
    ids=str,
)
def test_headers_out_of_bounds_are_malformed(change: dict[str, object]) -> None:
    with pytest.raises(MalformedRecord):
        peek_header(encode_update(Update(msgspec.structs.replace(HEADER, **change), Changes()))[0])


def test_a_record_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(MalformedRecord, match="at most"):
        peek_header(b"TIDE\x01" + bytes(MAX_RECORD_BYTES))


def test_a_later_writer_may_add_fields() -> None:
    text = msgspec.json.encode(OPEN).replace(b'"epoch"', b'"from_the_future":[1],"epoch"')
    assert msgspec.json.decode(text, type=Open) == OPEN


def test_grades_that_are_not_finite_are_refused_where_they_are_made() -> None:
    with pytest.raises(ValueError, match="finite"):
        msgspec.structs.replace(HEADER, grades={"served": float("nan")})


@pytest.mark.parametrize(
    "broken",
    [
        {"rows/items/keys": torch.zeros(3, dtype=torch.uint64), "rows/items/values": torch.zeros(3, 4)},
        {"rows/items/keys": torch.zeros(3), "rows/items/rows": torch.zeros(3), "rows/items/values": torch.zeros(3, 4)},
        {"evicted/items/keys": torch.zeros(2, 2, dtype=torch.uint64)},
        {"strange/items/keys": torch.zeros(2)},
        {"rows": torch.zeros(2)},
    ],
    ids=",".join,
)
def test_tensors_that_make_no_update_are_damage(broken: dict[str, torch.Tensor]) -> None:
    record = decode_record(encode_update(Update(HEADER, Changes()))[0])
    with pytest.raises(DamagedRecord, match="do not make an update"):
        assemble([dataclasses.replace(record, tensors=broken)])


FROZEN_UPDATE = (
    "54494445010000001f0100007b22626567756e5f6d73223a302c22636c69636b735f6d73223a5b5d2c22637265617465645f"
    "6d73223a31322c22646967657374223a2264222c2265706f6368223a332c22677261646573223a7b22736572766564223a30"
    "2e357d2c226b696e64223a22757064617465222c226e756d626572223a382c226f666673657473223a7b2230223a357d2c22"
    "70617274223a302c227061727473223a312c2270726576696f7573223a372c2271756172616e74696e6564223a7b7d2c2272"
    "616e676573223a7b2269223a5b2230303030303030303030303030303037222c223030303030303030303030303030303922"
    "5d7d2c227265736574223a66616c73652c22747261696e6572223a2274222c2277617465726d61726b5f6d73223a31317d0c"
    "020000d8010000000000007b22657669637465642f692f6b657973223a7b226474797065223a22553634222c227368617065"
    "223a5b315d2c22646174615f6f666673657473223a5b302c385d7d2c22726f77732f692f6b657973223a7b22647479706522"
    "3a22553634222c227368617065223a5b315d2c22646174615f6f666673657473223a5b382c31365d7d2c22726f77732f692f"
    "726f7773223a7b226474797065223a22493634222c227368617065223a5b315d2c22646174615f6f666673657473223a5b31"
    "362c32345d7d2c227461696c732f692f726f7773223a7b226474797065223a22493634222c227368617065223a5b315d2c22"
    "646174615f6f666673657473223a5b32342c33325d7d2c2264656e73652f6c696768742f62223a7b226474797065223a2246"
    "3332222c227368617065223a5b315d2c22646174615f6f666673657473223a5b33322c33365d7d2c22726f77732f692f7661"
    "6c756573223a7b226474797065223a2242463136222c227368617065223a5b312c325d2c22646174615f6f66667365747322"
    "3a5b33362c34305d7d2c227461696c732f692f76616c756573223a7b226474797065223a2242463136222c22736861706522"
    "3a5b312c325d2c22646174615f6f666673657473223a5b34302c34345d7d7d20200900000000000000070000000000000002"
    "00000000000000010000000000000000004040803f00c0003f803e2a10f6b15c4679ed"
)
FROZEN_BEFORE_BEGUN = (
    "5449444501000000030100007b22637265617465645f6d73223a31322c22646967657374223a2264222c2265706f6368223a332c22677261"
    "646573223a7b22736572766564223a302e357d2c226b696e64223a22757064617465222c226e756d626572223a382c226f66667365747322"
    "3a7b2230223a357d2c2270617274223a302c227061727473223a312c2270726576696f7573223a372c2271756172616e74696e6564223a7b"
    "7d2c2272616e676573223a7b2269223a5b2230303030303030303030303030303037222c2230303030303030303030303030303039225d7d"
    "2c227265736574223a66616c73652c22747261696e6572223a2274222c2277617465726d61726b5f6d73223a31317d0c020000d801000000"
    "0000007b22657669637465642f692f6b657973223a7b226474797065223a22553634222c227368617065223a5b315d2c22646174615f6f66"
    "6673657473223a5b302c385d7d2c22726f77732f692f6b657973223a7b226474797065223a22553634222c227368617065223a5b315d2c22"
    "646174615f6f666673657473223a5b382c31365d7d2c22726f77732f692f726f7773223a7b226474797065223a22493634222c2273686170"
    "65223a5b315d2c22646174615f6f666673657473223a5b31362c32345d7d2c227461696c732f692f726f7773223a7b226474797065223a22"
    "493634222c227368617065223a5b315d2c22646174615f6f666673657473223a5b32342c33325d7d2c2264656e73652f6c696768742f6222"
    "3a7b226474797065223a22463332222c227368617065223a5b315d2c22646174615f6f666673657473223a5b33322c33365d7d2c22726f77"
    "732f692f76616c756573223a7b226474797065223a2242463136222c227368617065223a5b312c325d2c22646174615f6f66667365747322"
    "3a5b33362c34305d7d2c227461696c732f692f76616c756573223a7b226474797065223a2242463136222c227368617065223a5b312c325d"
    "2c22646174615f6f666673657473223a5b34302c34345d7d7d20200900000000000000070000000000000002000000000000000100000000"
    "00000000004040803f00c0003f803e42f53ee7e15d81bf"
)
FROZEN_AT_FIRST = (
    "5449444501000000f20000007b22637265617465645f6d73223a31322c22646967657374223a2264222c2265706f6368223a332c226772"
    "61646573223a7b22736572766564223a302e357d2c226b696e64223a22757064617465222c226e756d626572223a382c226f6666736574"
    "73223a7b2230223a357d2c2270617274223a302c227061727473223a312c2270726576696f7573223a372c2272616e676573223a7b2269"
    "223a5b2230303030303030303030303030303037222c2230303030303030303030303030303039225d7d2c227265736574223a66616c73"
    "652c22747261696e6572223a2274222c2277617465726d61726b5f6d73223a31317d0c020000d8010000000000007b2265766963746564"
    "2f692f6b657973223a7b226474797065223a22553634222c227368617065223a5b315d2c22646174615f6f666673657473223a5b302c38"
    "5d7d2c22726f77732f692f6b657973223a7b226474797065223a22553634222c227368617065223a5b315d2c22646174615f6f66667365"
    "7473223a5b382c31365d7d2c22726f77732f692f726f7773223a7b226474797065223a22493634222c227368617065223a5b315d2c2264"
    "6174615f6f666673657473223a5b31362c32345d7d2c227461696c732f692f726f7773223a7b226474797065223a22493634222c227368"
    "617065223a5b315d2c22646174615f6f666673657473223a5b32342c33325d7d2c2264656e73652f6c696768742f62223a7b2264747970"
    "65223a22463332222c227368617065223a5b315d2c22646174615f6f666673657473223a5b33322c33365d7d2c22726f77732f692f7661"
    "6c756573223a7b226474797065223a2242463136222c227368617065223a5b312c325d2c22646174615f6f666673657473223a5b33362c"
    "34305d7d2c227461696c732f692f76616c756573223a7b226474797065223a2242463136222c227368617065223a5b312c325d2c226461"
    "74615f6f666673657473223a5b34302c34345d7d7d20200900000000000000070000000000000002000000000000000100000000000000"
    "00004040803f00c0003f803e23e8bb0be83b58bc"
)
FROZEN_OPEN = (
    "5449444501000000510000007b2262617365223a5b322c34305d2c22637265617465645f6d73223a392c22646967657374223a2264222c"
    "2265706f6368223a332c226b696e64223a226f70656e222c22747261696e6572223a2274227d00000000425c5cdd69e3bf4d"
)
