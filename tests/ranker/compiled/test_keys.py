"""Keys and rows as operators of a graph, beside those of ranker/inputs."""

import numpy as np
import pytest
import torch

from ranker.compiled.keys import SEARCHED, TableRows, crossed, mixed, remainder
from ranker.config import TableConfig
from ranker.inputs import hashing
from ranker.inputs.keymap import WIDTH, KeyMap
from ranker.inputs.slot_keys import Crosses, SlotKeys

NOTHING = np.empty(0, np.uint64)


def random_keys(count: int, seed: int = 0) -> np.ndarray:
    keys = np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)
    keys[:3] = [0, 2**63, 2**64 - 1][:count]
    return keys


def bits(keys: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(keys.view(np.int64))


def test_keys_are_mixed_to_the_same_bits() -> None:
    keys = random_keys(1_000)
    assert torch.equal(mixed(bits(keys)), bits(hashing.mixed(keys.copy())))


@pytest.mark.parametrize("divisor", [1, 2, 7, 4_096, 65_536, 99_991, 2**31 - 1])
def test_remainders_are_those_of_unsigned_numbers(divisor: int) -> None:
    keys = random_keys(1_000)
    assert torch.equal(remainder(bits(keys), divisor), bits(keys % np.uint64(divisor)))


def test_crosses_have_the_same_keys() -> None:
    crosses = [("item",), ("user", "item"), ("theme", "hour", "item"), ("user",)]
    keys = {
        "user": random_keys(3)[1:2],
        "hour": random_keys(4)[3:],
        "item": random_keys(50, 1),
        "theme": random_keys(50),
    }
    by_slot = {name: SlotKeys(of, None) for name, of in keys.items()}
    expected = Crosses("salt", crosses).keys(by_slot, np.zeros(50, np.int64), frozenset({"item", "theme"}))
    given = {name: bits(of)[0] if len(of) == 1 else bits(of) for name, of in keys.items()}
    assert torch.equal(crossed(given, crosses, "salt", 50).flatten(), bits(expected.keys_T))


def table(key_map: KeyMap, tail_rows: int = 5) -> TableRows:
    weights = torch.zeros(key_map.num_rows + tail_rows, 2)
    return TableRows(TableConfig(name="t", rows=key_map.num_rows, tail_rows=tail_rows), weights, key_map)


@pytest.mark.parametrize("rows", [8, 100, 3_000])
def test_a_map_is_read_as_it_is_through_a_long_life(rows: int) -> None:
    """It fills, and for a while each newcomer takes the place of another; the graph was made while it was empty."""
    key_map = KeyMap(rows)
    read, rng, unsure = table(key_map), np.random.default_rng(rows), 0
    for turn in range(30):
        held, places = key_map.items()
        new = random_keys(rows // 4, turn + 1)[3:]
        leaving = rng.permutation(len(held))[: max(0, len(held) + len(new) - rows)]
        free = np.flatnonzero(~key_map.has_key(np.arange(rows)))
        key_map.change(new, np.concatenate([free, places[leaving]])[: len(new)], held[leaving])
        asked = np.concatenate([new, held, random_keys(200, 1_000 + turn)[3:]])
        own, doubt = read.own(bits(asked))
        unsure += bool(doubt)
        if not doubt:
            np.testing.assert_array_equal(own, key_map.find(asked))
            found = np.where(own >= 0, own, asked % np.uint64(5) + np.uint64(rows))
            np.testing.assert_array_equal(read.rows(bits(asked))[0], found.astype(np.int64))
    assert unsure < 5
    key_map.clear()
    assert bool((read.own(bits(random_keys(100, 1)))[0] == -1).all())


def test_a_key_that_was_evicted_is_not_found_and_no_doubt_is_left() -> None:
    key_map, keys = KeyMap(64), random_keys(40)[3:]
    read = table(key_map)
    key_map.change(keys, np.arange(len(keys)), NOTHING)
    key_map.change(NOTHING, np.empty(0, np.int64), keys[:20])
    own, doubt = read.own(bits(keys))
    assert not doubt
    np.testing.assert_array_equal(own, [-1] * 20 + list(range(20, len(keys))))


def test_it_says_where_a_key_may_be_further_than_it_looks() -> None:
    key_map = KeyMap(400)
    candidates = np.arange(1, 400_000, dtype=np.uint64)
    crowded = candidates[key_map._home(candidates) == key_map._home(np.ones(1, np.uint64))]
    held = SEARCHED * WIDTH
    for count, sure in ((held, True), (held + 1, False)):
        key_map.clear()
        key_map.change(crowded[:count], np.arange(count), NOTHING)
        read = table(key_map)
        own, doubt = read.own(bits(crowded[:held]))
        assert not doubt
        np.testing.assert_array_equal(own, np.arange(held))
        assert bool(read.own(bits(crowded[-1:]))[1]) is not sure, "of a key that is not there"
        assert bool(read.own(bits(crowded[count - 1 : count]))[1]) is not sure, "of the last that is"


def test_the_key_0_is_found_or_in_doubt() -> None:
    key_map, zero = KeyMap(64), np.zeros(1, np.uint64)
    read = table(key_map)
    assert bool(read.own(bits(zero))[1]), "a free slot looks as if it held it"
    key_map.change(zero, np.array([7]), NOTHING)
    own, doubt = read.own(bits(zero))
    assert bool(doubt) or own.tolist() == [7]


def test_a_table_without_rows_of_keys_has_its_tail() -> None:
    read = TableRows(TableConfig(name="t", rows=0, tail_rows=6), torch.zeros(6, 2), KeyMap(0))
    keys = random_keys(20)
    rows, doubt = read.rows(bits(keys))
    assert not doubt
    np.testing.assert_array_equal(rows, (keys % np.uint64(6)).astype(np.int64))
