from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ranker.arrays import U64
from ranker.config import ITEM, LOG
from ranker.inputs.features import Featurizer
from ranker.inputs.hashing import hash64, salted
from ranker.inputs.requests import LOG_DTYPE, ScoringRequest
from ranker.inputs.tables import PlainTables
from tests.ranker.samples import EVENT_MS, log_of, request, tiny_model

CONFIG = tiny_model()


def key(value: str, slot: str) -> int:
    return int(salted(np.array([hash64(value)], np.uint64), slot)[0])


def keys(values: list[str], slot: str) -> list[int]:
    return [key(value, slot) for value in values]


def slot_keys(batch_of: ScoringRequest | list[ScoringRequest], slot: str) -> tuple[list[int], list[int] | None]:
    requests = batch_of if isinstance(batch_of, list) else [batch_of]
    found = Featurizer(CONFIG).keys(requests, 8).slots[slot]
    return found.keys_T.tolist(), None if found.lengths is None else found.lengths.tolist()


def test_a_batch_by_hand() -> None:
    first = request("ann", ["a", "b"], log=["p", "q", "r"])
    second = replace(request("bob", ["c"]), features={"interests": "z"}, surface="story")
    batch = Featurizer(CONFIG).keys([first, second], log_length=2)
    assert batch.request_of_N.tolist() == [0, 0, 1]
    assert batch.slots["user"].keys_T.tolist() == keys(["ann", "bob"], "user")
    assert batch.slots["surface"].keys_T.tolist() == keys(["feed", "story"], "surface")
    assert batch.slots["hour"].keys_T.tolist() == keys(["22", "22"], "hour")  # 2023-11-14 22:13:20 UTC
    assert batch.slots["item"].keys_T.tolist() == keys(["a", "b", "c"], "item")
    assert batch.slots["interests"].keys_T.tolist() == keys(["x", "y", "z"], "interests")
    assert slot_keys([first, second], "interests")[1] == [2, 1]
    assert batch.slots[LOG].keys_T.tolist() == keys(["q", "r"], ITEM)  # the newest two
    assert slot_keys([first, second], LOG)[1] == [3, 0]
    np.testing.assert_allclose(batch.log_age_E, np.log1p([120, 60]), rtol=1e-6)
    np.testing.assert_allclose(batch.dense_user_BF, [[np.log1p(30)], [0]], rtol=1e-6)
    np.testing.assert_allclose(batch.dense_item_NF, np.full((3, 1), np.log1p(2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("x", ["x"]),
        (["x", "y"], ["x", "y"]),
        ([], [""]),
        (5.0, ["5"]),
        (0.1, ["0.1"]),
        (None, [""]),
    ],
)
def test_what_a_category_may_be(sent: Any, read: list[str]) -> None:
    found, lengths = slot_keys(replace(request(), features={"interests": sent}), "interests")
    assert found == keys(read, "interests")
    assert lengths is None or lengths == [len(read)]


@pytest.mark.parametrize("sent", ["text", ["list"], float("nan"), float("inf"), None, 10**400, -(10**400)])
def test_what_is_no_number_is_zero(sent: Any) -> None:
    assert Featurizer(CONFIG).keys([replace(request(), features={"age": sent})], 8).dense_user_BF.tolist() == [[0.0]]


def test_a_missing_category_is_one_of_its_own() -> None:
    assert slot_keys(replace(request(), features={}), "interests") == ([key("", "interests")], None)


@pytest.mark.parametrize("odd", [True, 3, "text", None, float("nan"), 10**400])
def test_a_number_is_the_same_whatever_its_neighbours_are(odd: Any) -> None:
    items = [{"price": 2.5}, {"price": odd}, {}, {"price": 7.0}]
    made = Featurizer(CONFIG).keys([replace(request("u", ["a", "b", "c", "d"]), item_features=items)], 8)
    alone = [Featurizer(CONFIG).keys([replace(request("u", ["a"]), item_features=[item])], 8) for item in items]
    assert made.dense_item_NF.tolist() == [one.dense_item_NF[0].tolist() for one in alone]


def test_numbers_are_squashed_and_keep_their_sign() -> None:
    batch = Featurizer(CONFIG).keys([replace(request(), features={"age": -1e12})], 8)
    np.testing.assert_allclose(batch.dense_user_BF, [[-np.log1p(1e12)]], rtol=1e-6)


def test_log_items_share_the_rows_of_candidates_and_unknown_keys_share_the_tail() -> None:
    featurizer, tables = Featurizer(CONFIG), PlainTables(CONFIG)
    known: U64 = np.array([key("a", ITEM)], np.uint64)
    tables.key_maps["items"].change(known, np.array([7]), known[:0])
    batch = featurizer.batch(featurizer.keys([request("u", ["a", "b"], log=["b", "a"])], 8), tables)
    tail_of_b = 256 + key("b", ITEM) % 8
    assert batch.slots[ITEM].rows_T.tolist() == [7, tail_of_b]
    assert batch.slots[LOG].rows_T.tolist() == [tail_of_b, 7]
    assert batch.slots["user"].rows_T.tolist() == [256 + key("u", "user") % 8]


def test_dtypes_are_those_of_the_batch_contract() -> None:
    featurizer = Featurizer(CONFIG)
    batch = featurizer.batch(featurizer.keys([request(log=["p"])], 8), PlainTables(CONFIG))
    for tensor in (batch.request_of_N, batch.log_action_E, batch.log_surface_E, batch.slots[LOG].rows_T):
        assert tensor.dtype == torch.int64
    for tensor in (batch.dense_user_BF, batch.dense_item_NF, batch.log_age_E, batch.log_value_E):
        assert tensor.dtype == torch.float32
    assert (batch.num_requests, batch.num_candidates) == (1, 2)


def test_no_candidates_and_no_requests() -> None:
    featurizer = Featurizer(CONFIG)
    nothing = featurizer.batch(featurizer.keys([], 8), PlainTables(CONFIG))
    assert (nothing.num_requests, nothing.num_candidates) == (0, 0)
    empty = featurizer.batch(featurizer.keys([request(items=[])], 8), PlainTables(CONFIG))
    assert (empty.num_requests, empty.num_candidates) == (1, 0)
    assert empty.dense_item_NF.shape == (0, 1)


def test_events_from_the_future_and_of_odd_values_are_tamed() -> None:
    log = log_of("p")
    log["time_s"], log["value"] = EVENT_MS // 1000 + 999, np.inf
    batch = Featurizer(CONFIG).keys([replace(request(), log=log)], 8)
    assert batch.log_age_E.tolist() == [0.0]
    assert batch.log_value_E.tolist() == [0.0]


def test_a_code_out_of_range_is_refused() -> None:
    log = log_of("p")
    log["surface"] = 32
    with pytest.raises(ValueError, match="surface codes of log events must be below 32, got 32"):
        Featurizer(CONFIG).keys([replace(request(), log=log)], 8)


def test_requests_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="2 items, 1 mappings"):
        ScoringRequest(user="u", event_ms=0, items=["a", "b"], item_features=[{}])
    with pytest.raises(ValueError, match="LOG_DTYPE"):
        ScoringRequest(user="u", event_ms=0, items=[], item_features=[], log=np.zeros(3, np.uint8))
    assert ScoringRequest(user="u", event_ms=0, items=[], item_features=[]).log.dtype == LOG_DTYPE


def test_a_subset_keeps_each_items_features() -> None:
    subset = request(items=["a", "b", "c"], log=["p"]).subset([2, 0])
    wanted = request(items=["c", "a"], log=["p"])
    assert (subset.items, subset.item_features) == (wanted.items, wanted.item_features)
    assert subset.log.tolist() == wanted.log.tolist()


def test_a_tier_that_reads_no_log_gets_none_of_it() -> None:
    keyed = Featurizer(CONFIG).keys([request(log=["a", "b", "c"])], 0)
    assert len(keyed.slots[LOG].keys_T) == len(keyed.log_action_E) == 0
    lengths = keyed.slots[LOG].lengths
    assert lengths is not None
    assert lengths.tolist() == [0]


@pytest.mark.parametrize("kind", [int, float])
def test_numbers_as_ids_stay_apart_however_large(kind: type) -> None:
    """Up to 2^53 by their value: whoever sends 1e15 means the category "1000000000000000"."""
    ids = [999_999_999_999_999, 10**15, 10**15 + 1, 2**53 - 1, 2**53]
    sent = [replace(request("u", ["a"]), features={"interests": kind(n)}) for n in ids]
    assert slot_keys(sent, "interests")[0] == keys([str(n) for n in ids], "interests")


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e300, 10**400, -0.0, True])
def test_no_number_is_too_odd_to_be_a_category(value: float) -> None:
    assert len(slot_keys(replace(request("u", ["a"]), features={"interests": value}), "interests")[0]) == 1
