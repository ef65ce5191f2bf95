"""The laboratory: a stream's batches are what the featurizer gives, and nothing is graded by what it is to predict."""

import hashlib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lab.records import NEW, is_new, records
from benchmarks.lab.simulated import Plan, Shown, draw, draw_impressions
from benchmarks.lab.stream import Stream, encode, load, save, user_side
from benchmarks.lab.training import Run, Settings, run
from ranker.config import ModelConfig, TierConfig
from ranker.inputs.features import Featurizer, KeyedBatch
from ranker.inputs.hashing import hash64
from ranker.inputs.requests import LOG_DTYPE, ScoringRequest
from ranker.recipes import demo_model
from streams.simulate.config import WORLDS
from streams.simulate.world import World
from tests.ranker.samples import EVENT_MS, tiny_model

PLAN = Plan(world="demo", requests=40, candidates=4, history=8)
STEP = Settings(batch=8)


def small_model() -> ModelConfig:
    """Returns a model of two small tiers, with the simulated world's slots."""
    light = TierConfig(
        name="light",
        log_length=8,
        read_length=8,
        hidden=8,
        user_tokens=4,
        fm_tokens=2,
        compressed_tokens=2,
        encoder_layers=0,
    )
    return replace(demo_model(), tiers=(light, replace(light, name="heavy", layers=2, encoder_layers=1)))


def requests_over(events_E: np.ndarray, starts: list[int], ends: list[int]) -> Iterator[ScoringRequest]:
    """Yields requests of one to three candidates, with a slot of several values or none; logs are [start, end)."""
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        items = [f"i{number + n}" for n in range(1 + number % 3)]
        yield ScoringRequest(
            user=f"u{number}",
            event_ms=EVENT_MS + 1_500 * number,
            items=items,
            item_features=[{"category": f"c{n}", "price": 1.5 * n} for n in range(len(items))],
            features={"interests": ["x", "y", "z"][: number % 4], "age": 30.0 + number},
            surface="feed" if number % 2 else "search",
            log=events_E[start:end],
        )


@pytest.mark.parametrize("log_length", [0, 1, 4, 100])
@pytest.mark.parametrize(("first", "last"), [(0, 6), (0, 1), (2, 5), (5, 6)])
def test_a_batch_is_what_the_featurizer_gives(first: int, last: int, log_length: int) -> None:
    rng, model = np.random.default_rng(0), tiny_model()
    events_E = np.zeros(30, LOG_DTYPE)
    events_E["time_s"] = EVENT_MS // 1000 - rng.integers(0, 10_000, 30)
    events_E["item"] = [hash64(f"i{n}") for n in rng.integers(0, 9, 30)]
    for name in ("action", "surface"):
        events_E[name] = rng.integers(0, 9, 30)
    events_E["value"] = rng.exponential(3, 30)
    starts, ends = [0, 0, 0, 12, 12, 12], [3, 12, 12, 12, 14, 30]  # of two users; one log is empty, two are the same
    asked = list(requests_over(events_E, starts, ends))
    candidates = sum(len(request.items) for request in asked)
    nothing_N = np.zeros(candidates, np.float32)
    stream = Stream(
        keyed=encode(model, [replace(request, log=events_E[:0]) for request in asked]),
        event_ms_R=np.array([request.event_ms for request in asked]),
        log_start_R=np.array(starts),
        log_end_R=np.array(ends),
        events_E=events_E,
        position_N=np.zeros(candidates, np.int64),
        click_N=nothing_N,
        conversion_N=nothing_N,
        truth_N=nothing_N,
    )
    expected = Featurizer(model).keys(asked[first:last], log_length)
    assert_same_batch(stream.batch(first, last, log_length, user_side(model)), expected)


def assert_same_batch(found: KeyedBatch, expected: KeyedBatch) -> None:
    assert found.slots.keys() == expected.slots.keys()
    for name, slot in expected.slots.items():
        np.testing.assert_array_equal(found.slots[name].keys_T, slot.keys_T, name)
        assert (found.slots[name].lengths is None) == (slot.lengths is None)
        if slot.lengths is not None:
            np.testing.assert_array_equal(found.slots[name].lengths, slot.lengths, name)
    for field in fields(KeyedBatch):
        if field.name != "slots":
            ours, theirs = getattr(found, field.name), getattr(expected, field.name)
            assert ours.dtype == theirs.dtype, field.name
            np.testing.assert_array_equal(ours, theirs, field.name)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return draw(PLAN, small_model())


def test_a_stream_is_kept_as_it_is(stream: Stream, tmp_path: Path) -> None:
    save(stream, tmp_path / "new" / "stream.npz")
    again = load(tmp_path / "new" / "stream.npz")
    assert_same_batch(again.keyed, stream.keyed)
    for field in fields(Stream):
        if field.name != "keyed":
            np.testing.assert_array_equal(getattr(again, field.name), getattr(stream, field.name), field.name)


def graded(stream: Stream) -> dict[str, Run]:
    return run(stream, small_model(), STEP)


def with_other_labels(stream: Stream, first: int, last: int) -> Stream:
    """Changes the labels of the requests [first, last)."""
    cut = slice(int(stream.candidate_starts[first]), int(stream.candidate_starts[last]))
    click_N, conversion_N = stream.click_N.copy(), stream.conversion_N.copy()
    click_N[cut] = 1 - click_N[cut]
    conversion_N[cut] = np.where(click_N[cut] > 0, 1.0, np.nan)
    return replace(stream, click_N=click_N, conversion_N=conversion_N)


def test_predictions_know_no_label_of_their_own_or_a_later_batch(stream: Stream) -> None:
    plain, last_other = graded(stream), graded(with_other_labels(stream, 32, 40))
    earlier_other = graded(with_other_labels(stream, 24, 32))
    for name, found in plain.items():
        assert len(found.p_n) == 24 * PLAN.candidates  # of half the requests, from the batch that holds the middle on
        assert not np.array_equal(found.click_n, last_other[name].click_n)
        np.testing.assert_array_equal(found.p_n, last_other[name].p_n, name)
        before = 16 * PLAN.candidates
        np.testing.assert_array_equal(found.p_n[:before], earlier_other[name].p_n[:before], name)
        assert (found.p_n[before:] != earlier_other[name].p_n[before:]).all(), name


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("demo", "e4adfdbca4f0208b"),
        ("steady", "1689387550b01a76"),
        ("large", "b492d5fb1545796e"),
        ("rich", "2082b196126a0bc6"),
    ],
)
def test_streams_of_the_old_worlds_stay_as_they_were(name: str, digest: str) -> None:
    drawn = draw_impressions(replace(PLAN, world=name), World(WORLDS[name](), seed=0))
    arrays = [*(getattr(drawn.shown, field.name) for field in fields(Shown)), drawn.clicked, drawn.bought]
    assert hashlib.blake2b(b"".join(a.tobytes() for a in arrays), digest_size=8).hexdigest() == digest


def test_pages_and_histories_of_a_catalogue_hold_what_is_alive_then() -> None:
    plan = Plan(world="catalogue", requests=300, candidates=4, history=8)
    world = World(WORLDS["catalogue"](), seed=0)
    shown = draw_impressions(plan, world).shown
    assert len(shown.item) > 1_200 + 3_000 * 4
    for item, at_ms in zip(shown.item.tolist(), shown.at_ms.tolist(), strict=True):
        assert world.alive_of(np.array([item]), at_ms)[0]
    pages = shown.item[-1_200:].reshape(300, 4)
    assert all(len(set(page)) == 4 for page in pages.tolist())
    early, late = np.unique(pages[:30]), np.unique(pages[-30:])
    assert len(np.intersect1d(early, late)) < 0.4 * len(early)
    again = draw_impressions(plan, World(WORLDS["catalogue"](), seed=0)).shown
    np.testing.assert_array_equal(shown.item, again.item)


def test_records_count_earlier_pages_alone() -> None:
    rng = np.random.default_rng(0)
    request_N = np.repeat(np.arange(60), 5)
    key_N, click_N = rng.integers(0, 7, 300).astype(np.uint64), rng.integers(0, 2, 300).astype(np.float32)
    shown_N, clicked_N = records(key_N, request_N, click_N)
    for n in range(300):
        earlier = (request_N < request_N[n]) & (key_N == key_N[n])
        assert (shown_N[n], clicked_N[n]) == (earlier.sum(), click_N[earlier].sum())


def test_an_item_is_new_until_a_hundred_impressions_came_before() -> None:
    new_N = is_new(np.repeat(np.array([4, 2], np.uint64), [150, 3]), np.arange(153))
    assert new_N.tolist() == [True] * NEW + [False] * (150 - NEW) + [True] * 3
