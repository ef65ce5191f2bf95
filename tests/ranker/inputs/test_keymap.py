import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.arrays import I64, U64
from ranker.inputs.keymap import KeyMap

NONE = np.empty(0, np.uint64)


def u64(*keys: int) -> U64:
    return np.array(keys, np.uint64)


def rows(*values: int) -> I64:
    return np.array(values, np.int64)


# Few distinct keys, the ends of the range among them, so that they meet again and again.
keys_strategy = st.integers(0, 40) | st.sampled_from([2**63, 2**64 - 1])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_key_map_is_a_dictionary(data: st.DataObject) -> None:
    key_map, truth = KeyMap(32), dict[int, int]()
    for _ in range(data.draw(st.integers(1, 12))):
        evicted = data.draw(st.lists(keys_strategy, unique=True, max_size=8))
        keys = [k for k in data.draw(st.lists(keys_strategy, unique=True, max_size=8)) if k not in evicted]
        held = {row for key, row in truth.items() if key not in evicted and key not in keys}
        free = sorted(set(range(32)) - held)
        new = data.draw(st.permutations(free))[: len(keys)]
        keys = keys[: len(new)]
        key_map.change(u64(*keys), rows(*new), u64(*evicted))
        truth = {k: r for k, r in truth.items() if k not in evicted} | dict(zip(keys, new, strict=True))
        asked = [*range(41), 2**63, 2**64 - 1]
        assert key_map.find(u64(*asked)).tolist() == [truth.get(k, -1) for k in asked]
        assert dict(zip(*(a.tolist() for a in key_map.items()), strict=True)) == truth
        assert len(key_map) == len(truth)


def test_a_full_map_of_colliding_keys_finds_every_one() -> None:
    key_map = KeyMap(64)
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
    same_home = u64(*[(i * inverse) % 2**64 for i in range(64)])  # products 0..63: high bits all zero
    key_map.change(same_home, np.arange(64), NONE)
    assert key_map.find(same_home).tolist() == list(range(64))
    assert key_map.find(u64((64 * inverse) % 2**64)).tolist() == [-1]
    key_map.change(NONE, rows(), same_home[::2])
    assert key_map.find(same_home[1::2]).tolist() == list(range(1, 64, 2))


def test_a_long_life_of_changes_keeps_searches_short() -> None:
    key_map, rng = KeyMap(1000), np.random.default_rng(0)
    keys = rng.integers(0, 2**64, 1000, dtype=np.uint64)
    for _ in range(60):
        key_map.change(keys, np.arange(1000), NONE)
        key_map.change(NONE, rows(), keys)
        keys = rng.integers(0, 2**64, 1000, dtype=np.uint64)
    assert not key_map._passed.any()  # an empty map is as good as new


def test_a_full_map_in_which_newcomers_take_places_is_as_good_as_a_new_one() -> None:
    """Keys that were displaced while their home was full come back to it: else ever more buckets would be passed."""
    key_map, rng = KeyMap(2_000), np.random.default_rng(0)
    key_map.change(rng.integers(0, 2**64, 2_000, dtype=np.uint64), np.arange(2_000), NONE)
    shares = []
    for _ in range(200):
        keys, held = key_map.items()
        leaving = rng.permutation(2_000)[:100]
        key_map.change(rng.integers(0, 2**64, 100, dtype=np.uint64), held[leaving], keys[leaving])
        shares.append((key_map._passed > 0).mean())
    keys, held = key_map.items()
    assert key_map.find(keys).tolist() == held.tolist()
    assert np.mean(shares[-50:]) < 0.04, "as of a map that has just been filled; 0.1 without"


def test_a_key_that_is_evicted_twice_at_once_leaves_once() -> None:
    key_map, keys = KeyMap(100), np.arange(1, 2_000_000, dtype=np.uint64)
    keys = keys[key_map._home(keys) == 3][:20]
    key_map.change(keys, np.arange(20), NONE)
    key_map.change(NONE, rows(), keys[-1:].repeat(12))
    assert key_map.find(keys).tolist() == [*range(19), -1]
    assert (key_map._passed >= 0).all()


def test_applying_a_change_twice_is_harmless() -> None:
    key_map = KeyMap(8)
    key_map.change(u64(1, 2, 3), rows(0, 1, 2), NONE)
    for _ in range(2):
        key_map.change(u64(1, 4), rows(2, 0), u64(3))  # 1 moves to 3's row, 4 takes 1's
    assert key_map.find(u64(1, 2, 3, 4)).tolist() == [2, 1, -1, 0]


@pytest.mark.parametrize(
    ("keys", "new_rows", "evicted", "message"),
    [
        (u64(9), rows(0), NONE, "held by other keys"),
        (u64(9), rows(8), NONE, r"must be in \[0, 8\)"),
        (u64(9), rows(-1), NONE, r"must be in \[0, 8\)"),
        (u64(9, 9), rows(5, 6), NONE, "unique"),
        (u64(8, 9), rows(5, 5), NONE, "unique"),
        (u64(9), rows(5), u64(9), "evicted at once"),
        (u64(9), rows(5, 6), NONE, "one row"),
    ],
)
def test_a_refused_change_changes_nothing(keys: U64, new_rows: I64, evicted: U64, message: str) -> None:
    key_map = KeyMap(8)
    key_map.change(u64(1, 2), rows(0, 1), NONE)
    with pytest.raises(ValueError, match=message):
        key_map.change(keys, new_rows, evicted)
    assert [a.tolist() for a in key_map.items()] == [[1, 2], [0, 1]]
