"""Types made plain: the same values, whatever a file's writer made of them."""

import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ranker.tabular.columns import numbers, texts
from ranker.tabular.plain import plain

WORDS = ["a", None, "b"]
IDS = [uuid.UUID(int=k) if k else None for k in (7, 0, 2**128 - 1)]
FORMS = [
    (pa.array(WORDS, pa.string_view()), WORDS),
    (pa.array(WORDS, pa.large_string()), WORDS),
    (pa.array(WORDS).dictionary_encode(), WORDS),
    (pa.DictionaryArray.from_arrays([0, None, 1], pa.array(["a", "b"], pa.string_view())), WORDS),
    (pa.array([id_ and id_.bytes for id_ in IDS], pa.uuid()), [id_ and str(id_) for id_ in IDS]),
    (pa.array([None, None], pa.null()), [None, None]),
    (pa.array([Decimal("1.25"), None], pa.decimal128(9, 2)), [1.25, None]),
    (pa.array([Decimal(2**62 + 1), None], pa.decimal128(38, 0)), [2**62 + 1, None]),
    (pa.array([Decimal(2**64), Decimal(7)], pa.decimal128(38, 0)), [str(2**64), "7"]),
    (pa.array([2**64 - 1, 7], pa.uint64()), [str(2**64 - 1), "7"]),
    (pa.array([5, 7], pa.uint64()), [5, 7]),
    (pa.array(np.array([0.5, 1.5], np.float16)), [0.5, 1.5]),
    (pa.array([True, None]), [True, None]),
]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("values", "expected"), FORMS, ids=[str(values.type) for values, _ in FORMS])
def test_the_values_stay_what_they_are(values: Any, expected: list[Any], chunked: bool) -> None:
    found = plain(pa.chunked_array([values, values.slice(0, 1)]) if chunked else values, "c")
    assert found.to_pylist() == (expected + expected[:1] if chunked else expected)
    assert plain(found, "c").type == found.type


def test_an_empty_chunked_column_is_made_plain_too() -> None:
    assert plain(pa.chunked_array([], pa.dictionary(pa.int8(), pa.string_view())), "c").type == pa.string()
    assert plain(pa.chunked_array([], pa.uuid()), "c").type == pa.string()


@pytest.mark.parametrize("kind", [pa.binary(), pa.binary(16), pa.list_(pa.string()), pa.struct({"a": pa.int64()})])
def test_what_is_no_one_thing_is_refused_by_name_and_type(kind: pa.DataType) -> None:
    with pytest.raises(ValueError, match=r"column 'c' is of type .*, neither a number, a time nor a text: flatten it"):
        plain(pa.nulls(2, kind), "c")


def test_words_for_null_are_null_in_text_alone() -> None:
    assert plain(pa.array(["\\N", "n", None]), "c", ["\\N"]).to_pylist() == [None, "n", None]
    assert plain(pa.array([1, 2]), "c", ["1"]).to_pylist() == [1, 2]


def test_whole_floats_are_the_integers_that_they_are_as_text_too() -> None:
    expected = ["0", "7", None, "-3"]
    assert texts(pa.array(["0.0", "7.0", "", "-3.0"]), "c").to_pylist() == expected
    assert texts(pa.array([0.0, 7.0, None, -3.0]), "c").to_pylist() == expected
    assert texts(pa.array(["1.10", "007.0", "1.0.0"]), "c").to_pylist() == ["1.10", "007.0", "1.0.0"]


def test_times_of_far_years_do_not_wrap() -> None:
    far = pa.array([2**62], pa.timestamp("ms"))
    assert numbers(far, "c")[0] == 2**62 / 1000
    assert numbers(pa.array([1], pa.date32()), "c")[0] == 86_400
