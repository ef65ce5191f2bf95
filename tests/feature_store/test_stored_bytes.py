"""What is stored never changes by accident: records, headers, tags, keys, codes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store import EVENT_DTYPE, LogConfig, LogEvent, action_code, decode_events, encode_event, surface_code
from feature_store.keys import due_key, event_tag, join_key, log_key, timer_user
from feature_store.layout import Header, decode_header, encode_header, growth_steps


def test_a_record_is_these_bytes() -> None:
    event = LogEvent(time_s=0x01020304, item=0x1112131415161718, action=2, surface=31, value=1.5)
    assert encode_event(event) == bytes.fromhex("04030201 1817161514131211 02 1f 003e")


def test_a_header_is_these_bytes() -> None:
    header = Header(tags=256, capacity=2430, generation=0x0102030405060708, count=7)
    stored = bytes.fromhex("01 00 0001 7e090000 0807060504030201 0700000000000000")
    assert encode_header(header) == stored
    assert decode_header(stored) == header


def test_names_hash_to_these_codes_and_keys() -> None:
    kinds = ["impression", "click", "search", "add_to_cart", "purchase", "share"]
    assert [action_code(kind) for kind in kinds] == [1, 2, 3, 4, 5, 30]
    assert (surface_code("default"), surface_code("feed")) == (26, 25)
    assert (log_key("ü{1}"), join_key("u"), due_key(9)) == (b"log:{41}:\xc3\xbc{1}", b"join:{34}:u", b"due:{9}")
    assert event_tag("e1").hex() == "efea503b02247e1f"


def test_a_timer_names_its_user() -> None:
    assert timer_user(b"p\x00\x03\xc3\xbc1i:1") == "ü1"


@given(
    st.builds(
        LogEvent,
        time_s=st.integers(0, 2**32 - 1),
        item=st.integers(0, 2**64 - 1),
        action=st.integers(0, 31),
        surface=st.integers(0, 31),
        value=st.floats(width=16, allow_nan=False, allow_infinity=False),
    )
)
def test_a_record_is_read_as_it_was_written(event: LogEvent) -> None:
    (found,) = decode_events(encode_event(event))
    assert LogEvent(*found.tolist()) == event


@given(st.text())
def test_every_code_is_a_row_of_a_small_table(name: str) -> None:
    assert 1 <= action_code(name) < 32
    assert 0 <= surface_code(name) < 32


def test_a_value_too_large_for_half_precision_is_stored_as_the_largest() -> None:
    values = [decode_events(encode_event(LogEvent(1, 1, 1, value=v)))["value"][0] for v in (1e9, -math.inf)]
    assert values == [65504.0, -65504.0]


@pytest.mark.parametrize(
    "event",
    [LogEvent(2**32, 1, 1), LogEvent(1, -1, 1), LogEvent(1, 1, 32), LogEvent(1, 1, 1, surface=32)],
    ids=["milliseconds", "negative item", "action", "surface"],
)
def test_a_field_that_does_not_fit_is_refused(event: LogEvent) -> None:
    with pytest.raises(ValueError, match="must"):
        encode_event(event)


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="value must be a number"):
        encode_event(LogEvent(1, 1, 1, value=math.nan))


def test_broken_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="records are 16 bytes each, got 17 bytes"):
        decode_events(bytes(17))
    with pytest.raises(ValueError, match="want 24 bytes, the first 1; got 24, the first 02"):
        decode_header(bytes([2]) + bytes(23))


def test_the_dtype_has_no_padding() -> None:
    assert EVENT_DTYPE.itemsize == 16
    assert EVENT_DTYPE["item"] == np.dtype("<u8")


def test_a_full_log_of_the_defaults_fills_its_allocation() -> None:
    config = LogConfig()
    steps = growth_steps(config)
    assert steps == (17, 25, 36, 52, 73, 105, 148, 212, 318, 510, 766, 1150, 1662, 2430)
    value = 24 + 8 * config.tags + 16 * config.capacity + 6
    assert 40 * 1024 - 16 < value <= 40 * 1024


@given(st.integers(1, 5000), st.integers(0, 500), st.integers(1, 600))
def test_a_log_grows_strictly_and_ends_full(length: int, slack: int, tags: int) -> None:
    config = LogConfig(length=length, slack=slack, tags=tags)
    steps = growth_steps(config)
    assert list(steps) == sorted(set(steps))
    assert steps[-1] == config.capacity
