"""Counts of the log equal those of every pair of a candidate and an event, one by one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ranker.arrays import F32
from ranker.config import ANY, ITEM, Slot
from ranker.inputs.evidence import ACTED, CLICKED, COLUMNS, COUNTS, DECAYS_S, NEVER, SHOWN, Catalogue
from ranker.inputs.features import Featurizer
from ranker.inputs.hashing import hash64, salted
from ranker.inputs.requests import LOG_DTYPE, ScoringRequest
from ranker.inputs.tables import PlainTables
from tests.ranker.samples import EVENT_MS, tiny_model

CONFIG = tiny_model(rows=64)
KIND = {1: SHOWN, 2: CLICKED, 4: ACTED, 5: ACTED, 31: ACTED}
ITEMS = [f"i{n}" for n in range(12)]
KNOWN = ITEMS[:9]
"""Items that have a row and an entry; the others are in logs and among the candidates all the same."""


def category(item: str) -> str:
    return f"c{hash64(item) % 4}"


def key(value: str, slot: str) -> np.uint64:
    keys: np.uint64 = salted(np.array([hash64(value)], np.uint64), slot)[0]
    return keys


def tables() -> PlainTables:
    made = PlainTables(CONFIG)
    keys = np.array([key(item, ITEM) for item in KNOWN], np.uint64)
    made.key_maps["items"].change(keys, np.arange(len(KNOWN)), keys[:0])
    entries = np.array([[key(category(item), "category")] for item in KNOWN], np.uint64)
    assert made.catalogue.learn(np.arange(len(KNOWN)), entries).tolist() == list(range(len(KNOWN)))
    return made


def drawn(rng: np.random.Generator, events: int, candidates: int) -> ScoringRequest:
    log = np.zeros(events, LOG_DTYPE)
    log["item"] = [hash64(str(item)) for item in rng.choice(ITEMS, events)]
    log["action"] = rng.choice([1, 1, 1, 2, 2, 3, 4, 5, 31], events)
    log["time_s"] = EVENT_MS // 1000 - rng.integers(0, 300_000, events)  # in the order of arrival, not of time
    items = [str(item) for item in rng.choice(ITEMS, candidates)]
    features = [{"category": category(item)} for item in items]
    return ScoringRequest(user="u", event_ms=EVENT_MS, items=items, item_features=features, log=log)


def plain(request: ScoringRequest, item: str, slot: str, *, length: int) -> F32:
    """[COLUMNS] of one candidate, event by event."""
    counts, newest = np.zeros((len(DECAYS_S), 3)), [float(NEVER)] * 2
    for event in request.log[len(request.log) - min(length, len(request.log)) :]:
        [other] = [name for name in ITEMS if hash64(name) == int(event["item"])]
        same = other == item if slot == ITEM else other in KNOWN and category(other) == category(item)
        same = same or slot == ANY
        kind = KIND.get(int(event["action"]))
        if not same or kind is None:
            continue
        age_s = EVENT_MS / 1000 - int(event["time_s"])
        counts[:, kind] += [np.exp(-age_s / tau_s) for tau_s in DECAYS_S]
        if kind in (SHOWN, CLICKED):
            newest[kind] = min(newest[kind], float(np.log1p(age_s)))
    return np.array([*counts.T.ravel(), *newest], np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_each_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    requests = [drawn(rng, int(rng.integers(0, 60)), int(rng.integers(0, 8))) for _ in range(4)]
    config = replace(CONFIG, evidence=(*CONFIG.evidence, ANY))
    featurizer = Featurizer(config)
    found_NSC = featurizer.batch(featurizer.keys(requests, 40), tables()).evidence_NSC
    assert found_NSC is not None
    wanted = [
        [plain(request, item, slot, length=40) for slot in config.evidence]
        for request in requests
        for item in request.items
    ]
    assert found_NSC.shape == (len(wanted), 3, COLUMNS)
    np.testing.assert_allclose(
        found_NSC.numpy(), np.array(wanted, np.float32).reshape(-1, 3, COLUMNS), rtol=1e-4, atol=1e-6
    )


def test_a_candidate_s_counts_do_not_depend_on_the_company() -> None:
    rng = np.random.default_rng(9)
    requests = [drawn(rng, 50, 6) for _ in range(3)]
    featurizer, known = Featurizer(CONFIG), tables()
    together = featurizer.batch(featurizer.keys(requests, 64), known).evidence_NSC
    alone = featurizer.batch(featurizer.keys([requests[1].subset([4])], 64), known).evidence_NSC
    assert together is not None
    assert alone is not None
    assert together[6 + 4].numpy().tobytes() == alone[0].numpy().tobytes()


def test_a_request_without_candidates_leaves_its_events_to_nobody() -> None:
    rng, featurizer, known = np.random.default_rng(7), Featurizer(CONFIG), tables()
    asked = drawn(rng, 20, 4)
    empty = ScoringRequest(user="v", event_ms=EVENT_MS, items=[], item_features=[], log=drawn(rng, 30, 1).log)
    alone, beside = (featurizer.batch(featurizer.keys(r, 64), known).evidence_NSC for r in ([asked], [asked, empty]))
    assert alone is not None
    assert beside is not None
    np.testing.assert_array_equal(alone.numpy(), beside.numpy())


def test_no_events_and_no_candidates() -> None:
    featurizer, known = Featurizer(CONFIG), tables()
    one = drawn(np.random.default_rng(0), 0, 2)
    found = featurizer.batch(featurizer.keys([one], 64), known).evidence_NSC
    assert found is not None
    assert (found[..., :COUNTS] == 0).all()
    assert (found[..., COUNTS:] == float(NEVER)).all()
    nobody = featurizer.batch(featurizer.keys([one.subset([])], 64), known).evidence_NSC
    assert nobody is not None
    assert nobody.shape == (0, 2, COLUMNS)


def test_of_several_values_the_first_counts() -> None:
    request = drawn(np.random.default_rng(3), 40, 1)
    first = category(request.items[0])
    several: Sequence[str] = [first, "another"]
    featurizer, known = Featurizer(CONFIG), tables()
    single = featurizer.batch(featurizer.keys([request], 64), known).evidence_NSC
    listed = replace(request, item_features=[{"category": several}])
    both = featurizer.batch(featurizer.keys([listed], 64), known).evidence_NSC
    assert single is not None
    assert both is not None
    assert single.numpy().tobytes() == both.numpy().tobytes()


def test_the_newest_entry_of_an_item_counts_and_a_cleared_one_does_not() -> None:
    catalogue = Catalogue("items", ["category"], 4)
    a, b = np.uint64(7), np.uint64(8)
    assert catalogue.learn(np.array([2, 2, 1]), np.array([[a], [b], [a]], np.uint64)).tolist() == [1, 2]
    assert catalogue.learn(np.array([2, 1]), np.array([[b], [a]], np.uint64)).tolist() == []
    assert catalogue.learn(np.array([2, 2]), np.array([[b], [0]], np.uint64)).tolist() == []
    values, known = catalogue.values(np.array([2, -1, 3, 1]))["category"]
    assert (values[[0, 3]].tolist(), known.tolist()) == ([8, 7], [True, False, False, True])
    catalogue.clear(np.array([2]))
    assert not catalogue.values(np.array([2]))["category"][1].any()


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        (("nothing",), "categorical slots of candidates, .*; got .*nothing"),
        (("price",), "categorical slots of candidates, .*; got .*price"),
        (("user",), "categorical slots of candidates, .*; got .*user"),
        ((ITEM, ITEM), "each slot once"),
    ],
)
def test_a_slot_that_cannot_be_counted_is_refused(evidence: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, evidence=evidence)


def test_evidence_needs_an_item() -> None:
    slots = tuple(slot for slot in CONFIG.slots if slot.name != ITEM)
    with pytest.raises(ValueError, match="of a model with a slot 'item'"):
        replace(CONFIG, slots=(*slots, Slot(name="brand", side="candidate")), evidence=("category",))
