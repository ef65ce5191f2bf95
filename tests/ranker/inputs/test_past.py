"""Past pages: equal to what a reader of the log, event by event, would take as examples."""

from dataclasses import replace

import numpy as np
import pytest

from ranker.arrays import U64
from ranker.config import CROSSES, ITEM
from ranker.inputs.evidence import CLICKED, DECAYS_S, SHOWN, kinds
from ranker.inputs.features import Featurizer
from ranker.inputs.hashing import hash64, salted
from ranker.inputs.past import SETTLED_S, least_ages, past_pages
from ranker.inputs.requests import LOG_DTYPE, ScoringRequest
from ranker.learning.lessons import past_draws
from tests.ranker.inputs.test_evidence import CONFIG, KNOWN, category, drawn, key, plain, tables
from tests.ranker.samples import EVENT_MS

LONG = 64


def pages_of(  # type: ignore[no-untyped-def]
    requests: list[ScoringRequest], draws_BP: U64, log_length: int = LONG, began_ms: int = EVENT_MS
):
    featurizer = Featurizer(CONFIG)
    keyed = featurizer.keys(requests, LONG)
    event_ms_B = np.array([r.event_ms for r in requests], np.int64)
    newest_KB = np.array([[3] * len(requests), [log_length] * len(requests)])
    logs = featurizer.rows(keyed, tables()).logs
    past = featurizer.past(keyed.slots, logs, newest_KB, event_ms_B, began_ms, draws_BP)
    return past.part(1, np.ones(len(requests), np.bool_))


def by_hand(request: ScoringRequest, draw: int) -> list[tuple[int, float]]:
    """Places in the log of a page's impressions, and whether each was clicked."""
    log = request.log
    kind = kinds(log["action"].astype(np.int64))
    age = np.log1p(EVENT_MS / 1000 - log["time_s"].astype(np.int64)).astype(np.float32)
    names = {int(key(item, ITEM)) for item in KNOWN}
    keys = salted(log["item"], ITEM)
    shown = [e for e in range(len(log)) if kind[e] == SHOWN and int(keys[e]) in names and age[e] > np.log1p(SETTLED_S)]
    if not shown:
        return []
    at = shown[draw % len(shown)]
    found = []
    for e in shown:
        if age[e] == age[at]:
            later = [kind[x] for x in range(e + 1, len(log)) if keys[x] == keys[e] and kind[x] in (SHOWN, CLICKED)]
            found.append((e, float(bool(later) and later[0] == CLICKED)))
    return found


def ordered(rng: np.random.Generator, events: int) -> ScoringRequest:
    """A log in the order of time, of pages of several items; what came of an impression is behind it."""
    request = drawn(rng, events, 2)
    request.log["time_s"] = np.sort(EVENT_MS // 1000 - rng.integers(0, 3_000, events) // 60 * 60)
    request.log[:] = request.log[np.lexsort((request.log["action"], request.log["time_s"]))]
    return request


@pytest.mark.parametrize("seed", range(6))
def test_pages_are_those_of_the_log_read_event_by_event(seed: int) -> None:
    rng = np.random.default_rng(seed)
    requests = [ordered(rng, int(rng.integers(0, 60))) for _ in range(4)]
    draws_BP = rng.integers(0, 2**63, (4, 1)).astype(np.uint64)
    past = pages_of(requests, draws_BP, log_length=20)
    wanted = [
        (request, places[0][0], place, clicked)
        for request, draw in zip(requests, draws_BP[:, 0].tolist(), strict=True)
        for places in [by_hand(request, draw)]
        for place, clicked in places
    ]
    assert past.click_M.tolist() == [clicked for *_, clicked in wanted]
    for m, (request, first, place, _) in enumerate(wanted):
        [item] = [name for name in KNOWN if key(name, ITEM) == key_of(request, place)]
        then = ScoringRequest(user="u", event_ms=EVENT_MS, items=[item], item_features=[{}], log=moved(request, first))
        counted = [plain(then, item, slot, length=20) for slot in CONFIG.evidence]
        np.testing.assert_allclose(past.evidence_MSC[m].numpy(), np.array(counted), rtol=2e-3, atol=2e-3)


def key_of(request: ScoringRequest, place: int) -> np.uint64:
    found: np.uint64 = salted(request.log["item"][place : place + 1], ITEM)[0]
    return found


def moved(request: ScoringRequest, first: int) -> np.ndarray:
    """The log before event `first`, as old as it was when that happened."""
    log = request.log[:first].copy()
    log["time_s"] += EVENT_MS // 1000 - int(request.log["time_s"][first])
    return log


def test_what_came_after_the_page_does_not_count() -> None:
    """The label least of all: the page's own click lies behind it."""
    log = np.zeros(3, LOG_DTYPE)
    log["item"] = drawn(np.random.default_rng(0), 1, 1).log["item"]
    log["action"] = [1, 2, 1]
    log["time_s"] = EVENT_MS // 1000 - np.array([900, 899, 500])
    log["item"] = hash64(KNOWN[0])
    request = ScoringRequest(user="u", event_ms=EVENT_MS, items=["x"], item_features=[{}], log=log)
    first, last = (pages_of([request], np.array([[draw]], np.uint64)) for draw in (0, 1))
    assert (first.click_M.tolist(), last.click_M.tolist()) == ([1.0], [0.0])
    assert not first.evidence_MSC[..., :9].any()
    shown, clicked = 0, len(DECAYS_S)
    assert last.evidence_MSC[0, 0, [shown, clicked]].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("later_s", [0, 1])
def test_a_click_that_arrived_before_its_impression_is_no_evidence_for_it(later_s: int) -> None:
    log = np.zeros(2, LOG_DTYPE)
    log["item"], log["action"] = hash64(KNOWN[0]), [2, 1]
    log["time_s"] = EVENT_MS // 1000 - np.array([900 - later_s, 900])
    request = ScoringRequest(user="u", event_ms=EVENT_MS, items=["x"], item_features=[{}], log=log)
    page = pages_of([request], np.array([[0]], np.uint64))
    assert page.click_M.tolist() == [1.0]
    assert not page.evidence_MSC[..., :9].any()


def test_young_impressions_and_unknown_items_are_no_examples() -> None:
    age_E = np.log1p(np.array([SETTLED_S + 1, SETTLED_S + 1, SETTLED_S - 1])).astype(np.float32)
    pages = past_pages(
        np.ones(3, np.int64),
        age_E,
        np.arange(3, dtype=np.uint64),
        np.array([True, False, True]),
        np.array([3]),
        least_ages(np.array([0]), 0),
        np.arange(9, dtype=np.uint64)[None],
    )
    assert pages.event_M.tolist() == [0]


def test_crosses_are_those_of_the_user_and_the_item_at_that_hour() -> None:
    config = replace(CONFIG, cross_rows=2**20)
    request = ordered(np.random.default_rng(4), 30)
    request.log["time_s"] -= np.linspace(90_000, 0, 30).astype(np.uint32)  # over more than a day
    featurizer, known = Featurizer(config), tables()
    keyed = featurizer.keys([request], LONG)
    draws_BP = np.array([[7]], np.uint64)
    logs, newest_KB = featurizer.rows(keyed, known).logs, np.array([[LONG]])
    past = featurizer.past(keyed.slots, logs, newest_KB, np.array([EVENT_MS]), EVENT_MS, draws_BP)
    assert past.crosses_MC is not None
    rows_MC = past.crosses_MC
    [(place, _), *_] = by_hand(request, 7)
    item = next(name for name in KNOWN if key(name, ITEM) == key_of(request, place))
    then = replace(
        request,
        items=[item],
        item_features=[{"category": category(item)}],
        event_ms=int(request.log["time_s"][place]) * 1000,
    )
    asked = featurizer.batch(featurizer.keys([then], LONG), known).slots[CROSSES].rows_T.numpy()
    assert rows_MC[0].tolist() == asked[list(config.past_crosses)].tolist()


def test_impressions_from_after_the_model_began_are_no_examples() -> None:
    """They were examples of their own."""
    request = ordered(np.random.default_rng(3), 50)
    draws_BP = np.arange(200, dtype=np.uint64)[None]
    all_M, older_M, none_M = (
        pages_of([request], draws_BP, began_ms=EVENT_MS - 1000 * ago_s).click_M for ago_s in (0, 1_500, 3_600)
    )
    assert 0 < len(older_M) < len(all_M)
    age_s = EVENT_MS // 1000 - request.log["time_s"].astype(np.int64)
    known = np.isin(salted(request.log["item"], ITEM), [key(item, ITEM) for item in KNOWN])
    shown = kinds(request.log["action"].astype(np.int64)) == SHOWN
    assert len(older_M) == (known & shown & (age_s > 1_500)).sum()
    assert len(none_M) == 0


def test_no_events_no_pages() -> None:
    past = pages_of([drawn(np.random.default_rng(0), 0, 2)], past_draws(["r"], 3))
    assert past.click_M.shape == (0,)
    assert past.evidence_MSC.shape[0] == 0


def test_the_same_response_gives_the_same_pages() -> None:
    assert past_draws(["a", "b"], 3).tolist()[1] == past_draws(["b"], 3).tolist()[0]
    assert len(set(past_draws(["a", "b"], 3).ravel().tolist())) == 6
    assert past_draws([], 3).shape == (0, 3)
