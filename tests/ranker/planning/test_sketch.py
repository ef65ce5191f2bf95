import numpy as np
import pytest

from ranker.arrays import U64
from ranker.inputs.hashing import salted
from ranker.planning.sketch import FrequentKeys, HyperLogLog


def distinct(count: int, seed: int) -> U64:
    return salted(np.arange(count, dtype=np.uint64), f"seed {seed}")


def zipf(count: int, size: int, exponent: float, seed: int) -> U64:
    """`size` draws from keys 0 … count - 1, as frequent as rank^-exponent."""
    shares = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    ranks = np.random.default_rng(seed).choice(count, size, p=shares / shares.sum())
    return salted(ranks.astype(np.uint64), "zipf")


def exact(keys: U64) -> dict[int, int]:
    found, counts = np.unique(keys, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("count", [0, 1, 100, 5_000, 20_000, 40_000, 60_000, 100_000, 1_000_000])
def test_distinct_keys_within_the_stated_error(count: int) -> None:
    errors = []
    for seed in range(8):
        sketch = HyperLogLog()
        sketch.add(distinct(count, seed))
        errors.append(sketch.estimate() / count - 1 if count else sketch.estimate())
    assert np.abs(errors).max() < 3 * sketch.standard_error
    assert abs(np.mean(errors)) < sketch.standard_error


def test_repeats_and_order_change_no_estimate() -> None:
    keys = distinct(30_000, 0)
    once, often = HyperLogLog(), HyperLogLog()
    once.add(keys)
    for part in np.array_split(np.random.default_rng(0).permutation(np.tile(keys, 3)), 7):
        often.add(part)
    assert once.estimate() == often.estimate()


def test_merged_distinct_counts_are_those_of_the_whole() -> None:
    keys = distinct(50_000, 1)
    whole, left, right = HyperLogLog(12), HyperLogLog(12), HyperLogLog(12)
    whole.add(keys)
    left.add(keys[:30_000])
    right.add(keys[20_000:])
    left.merge(right)
    assert left.estimate() == whole.estimate()
    with pytest.raises(ValueError, match="equal precision, got 12 and 14"):
        left.merge(HyperLogLog(14))


@pytest.mark.parametrize("precision", [10, 19])
def test_a_precision_that_cannot_be_is_refused(precision: int) -> None:
    with pytest.raises(ValueError, match=r"must be in \[11, 18\]"):
        HyperLogLog(precision)


def test_counts_are_exact_while_all_keys_fit() -> None:
    keys = zipf(1_000, 50_000, 1.0, seed=0)
    sketch = FrequentKeys(1_000)
    for part in np.array_split(keys, 11):
        sketch.add(part)
    found, counts = sketch.items()
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == exact(keys)
    assert (sketch.error, sketch.total) == (0, 50_000)
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.2])
@pytest.mark.parametrize("merged", [False, True])
def test_counts_are_too_low_by_no_more_than_the_stated_error(exponent: float, merged: bool) -> None:
    capacity, size = 300, 900_000
    keys = zipf(20_000, size, exponent, seed=1)
    parts = [FrequentKeys(capacity) for _ in range(3)]
    for i, part in enumerate(np.array_split(keys, 12)):
        parts[i % 3 if merged else 0].add(part)
    sketch = parts[0]
    for other in parts[1:]:
        sketch.merge(other)
    truth = exact(keys)
    held = dict(zip(*(a.tolist() for a in sketch.items()), strict=True))
    assert sketch.total == size
    assert len(held) <= capacity
    assert sketch.error <= size / (capacity + 1)
    assert all(count <= truth[key] <= count + sketch.error for key, count in held.items())
    assert all(count <= sketch.error for key, count in truth.items() if key not in held)


def test_of_a_skewed_stream_the_hottest_are_held() -> None:
    keys = zipf(100_000, 600_000, 1.2, seed=2)
    sketch = FrequentKeys(1_000)
    sketch.add(keys)
    truth = exact(keys)
    hottest = sorted(truth, key=lambda key: -truth[key])[:100]
    assert set(hottest) <= set(sketch.items()[0].tolist())


def test_given_counts_stand_for_repeats() -> None:
    keys = zipf(50, 2_000, 1.0, seed=3)
    repeated, counted = FrequentKeys(100), FrequentKeys(100)
    repeated.add(keys)
    found, counts = np.unique(keys, return_counts=True)
    counted.add(found, counts)
    assert [a.tolist() for a in repeated.items()] == [a.tolist() for a in counted.items()]
    assert repeated.total == counted.total


def test_a_sketch_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity must be >= 1, got 0"):
        FrequentKeys(0)
