"""What columns are taken for."""

from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ranker.tabular.columns import find_columns, numbers, texts

N = 3000
RNG = np.random.default_rng(0)


def kind_of(name: str, values: Any, **told: Any) -> tuple[str, str]:
    table = pa.table({name: values, "other": np.arange(N) % 2, "click": np.arange(N) % 2})
    column = find_columns(table, label="click", **told)[0]
    assert column.name == name
    return column.kind, column.reason


ITEMS = RNG.choice(5000, 400, replace=False)
POPULAR = 1 / RNG.permutation(np.arange(1, 401))

KINDS = [
    ("text", [f"v{i % 7}" for i in range(N)], "categorical"),
    ("dictionary", pa.array([f"v{i % 7}" for i in range(N)]).dictionary_encode(), "categorical"),
    ("bools", RNG.random(N) < 0.5, "categorical"),
    ("hour", RNG.integers(0, 24, N), "categorical"),
    ("hour_with_gaps", np.where(RNG.random(N) < 0.1, np.nan, RNG.integers(0, 24, N)), "categorical"),
    ("userId", RNG.integers(0, 1000, N), "categorical"),
    ("C14", RNG.choice(ITEMS, N, p=POPULAR / POPULAR.sum()), "categorical"),
    ("price", RNG.lognormal(3, 1, N), "numeric"),
    ("item_count", RNG.poisson(2000, N), "numeric"),
    ("seconds", RNG.exponential(300, N).astype(int), "numeric"),
    ("time", [datetime(2026, 1, 1) + timedelta(seconds=int(s)) for s in RNG.integers(0, 10**6, N)], "numeric"),
    ("decimal", [Decimal(int(cents)) / 10_000 for cents in RNG.integers(0, 10**6, N)], "numeric"),
    ("uint64_hash", RNG.choice(RNG.integers(2**63, 2**64, 50, dtype=np.uint64), N), "categorical"),
    ("C15", RNG.choice(RNG.integers(2**60, 2**62, 200), N), "categorical"),
    ("duration", [timedelta(seconds=int(s)) for s in RNG.integers(0, 10**4, N)], "numeric"),
    ("daytime", [datetime.min.replace(minute=int(m)).time() for m in RNG.integers(0, 60, N)], "numeric"),
    ("placeholder", np.where(RNG.random(N) < 0.1, 1e300, RNG.integers(0, 10**6, N)), "numeric"),
    ("constant", ["same"] * N, "dropped"),
    ("nothing", [None] * N, "dropped"),
    ("request_id", [f"r{i}" for i in range(N)], "dropped"),
    ("row_number", np.arange(N) + 17, "dropped"),
]


@pytest.mark.parametrize(("name", "values", "kind"), KINDS, ids=[name for name, *_ in KINDS])
def test_columns_are_told_apart_by_type_name_and_values(name: str, values: Any, kind: str) -> None:
    assert kind_of(name, values)[0] == kind


def test_what_is_told_overrules_what_is_seen() -> None:
    hours = RNG.integers(0, 24, N)
    assert kind_of("hour", hours, numeric=["hour"]) == ("numeric", "as told")
    assert kind_of("seconds", RNG.integers(0, 900, N), categorical=["seconds"]) == ("categorical", "as told")


@pytest.mark.parametrize("kind", [pa.float64(), pa.decimal128(38, 2)])
def test_ids_that_lost_their_last_digits_as_floats_are_refused_unless_they_are_amounts(kind: pa.DataType) -> None:
    values = pa.array(RNG.choice(RNG.integers(2**60, 2**62, 200), N)).cast(kind, safe=False)
    for read in (kind_of, lambda name, values: texts(values, name)):
        with pytest.raises(ValueError, match=r"column 'x' holds whole numbers beyond 2\^53 that came as floats"):
            read("x", values)
    assert kind_of("x", values, numeric=["x"])[0] == "numeric"


def test_an_id_of_the_rows_is_dropped_even_if_told_and_says_why() -> None:
    kind, reason = kind_of("key", [f"r{i}" for i in range(N)], categorical=["key"])
    assert kind == "dropped"
    assert reason == "3000 categories in 3000 rows: an id of the rows, which could only be memorized"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"label": "clicked"}, "no column 'clicked' for the label"),
        ({"label": "click", "numeric": ["x"]}, r"numeric names columns \['x'\] that are not there"),
        ({"label": "click", "ignore": ["a"], "numeric": ["a"]}, r"columns \['a'\] are given two roles"),
        ({"label": "click", "ignore": ["a"]}, "no column is left to learn from"),
    ],
)
def test_names_that_do_not_fit_are_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_columns(pa.table({"a": [1.5, 2.5], "click": [0, 1]}), **told)


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.table([[1.5, 2], [2.5, 3], [0, 1]], names=["a", "a", "click"])
    with pytest.raises(ValueError, match=r"column names must be unique, got several of \['a'\]"):
        find_columns(table, label="click")


class TestTexts:
    def test_digits_beyond_2_to_the_53_are_kept(self) -> None:
        ids = [2**53 + 1, 2**53 + 2, -(2**62) - 1]
        assert texts(pa.chunked_array([ids]), "c").to_pylist() == [str(i) for i in ids]

    def test_the_same_category_reads_the_same_whatever_its_type_came_to_be(self) -> None:
        expected = ["1", None, "20"]
        for values in ([1, None, 20], [1.0, None, 20.0], [1.0, float("nan"), 20.0], ["1", "", "20"]):
            assert texts(pa.chunked_array([values]), "c").to_pylist() == expected
        assert texts(pa.chunked_array([[True, False]]), "c").to_pylist() == ["true", "false"]

    def test_nested_columns_are_refused(self) -> None:
        with pytest.raises(ValueError, match="column 'c' is of type list"):
            texts(pa.chunked_array([[["a"], ["b"]]]), "c")


class TestNumbers:
    def test_missing_and_infinite_are_nan(self) -> None:
        found = numbers(pa.chunked_array([[1.5, None, float("inf"), float("nan"), -2.0]]), "c")
        np.testing.assert_array_equal(found, [1.5, np.nan, np.nan, np.nan, -2.0])

    def test_times_are_seconds(self) -> None:
        times = pa.chunked_array([pa.array([datetime(1970, 1, 2), None])])
        np.testing.assert_array_equal(numbers(times, "c"), [86_400.0, np.nan])

    def test_times_finer_than_microseconds_and_far_off(self) -> None:
        fine = pa.chunked_array([pa.array([86_400 * 10**9 + 1], pa.timestamp("ns"))])
        assert numbers(fine, "c")[0] == 86_400.0
        assert numbers(pa.chunked_array([pa.array([datetime(9999, 12, 31)])]), "c")[0] > 2e11

    def test_durations_and_times_of_day_are_seconds(self) -> None:
        for unit, second in (("s", 1), ("ms", 10**3), ("ns", 10**9)):
            durations = pa.chunked_array([pa.array([90 * second, None], pa.duration(unit))])
            np.testing.assert_array_equal(numbers(durations, "c"), [90.0, np.nan])
        for kind in (pa.time32("s"), pa.time64("us")):
            times = pa.chunked_array([pa.array([time(1, 0, 30), None], kind)])
            np.testing.assert_array_equal(numbers(times, "c"), [3630.0, np.nan])

    def test_integers_that_are_told_to_be_numbers_are_rounded(self) -> None:
        assert numbers(pa.chunked_array([[2**53 + 1, 2**62 + 1]]), "c").tolist() == [2.0**53, 2.0**62]

    def test_text_that_is_no_number_is_refused(self) -> None:
        assert numbers(pa.chunked_array([["1.5", ""]]), "c")[0] == 1.5
        with pytest.raises(ValueError, match=r"column 'c' was to hold numbers: .*cheap"):
            numbers(pa.chunked_array([["1.5", "cheap"]]), "c")
