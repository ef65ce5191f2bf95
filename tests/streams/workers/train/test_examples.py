"""From training examples to what the learner takes in."""

import numpy as np
import pytest

from feature_store.events import EVENT_DTYPE
from feature_store.facts import NO_LOG
from feature_store.log import LogSlice
from ranker.delayed.policies import NO_EMISSION, Emission
from streams.kafka.seen import SeenIds
from streams.workers.train.examples import _labelled, once
from tests.streams.samples import example

EMPTY = LogSlice(NO_LOG, np.empty(0, EVENT_DTYPE))


@pytest.mark.parametrize("kind", ["click", "conversion"])
@pytest.mark.parametrize(
    ("changes", "emission", "label"),
    [
        ({"provisional": True}, Emission.PROVISIONAL, np.nan),
        ({"label": 1.0}, Emission.CONVERTED, 1),
        ({"label": 1.0, "corrects": True}, Emission.CORRECTED, 1),
        ({"by_window": True}, Emission.CLOSED, 0),
    ],
)
def test_each_kind_of_example(kind: str, changes: dict[str, object], emission: Emission, label: float) -> None:
    found = _labelled([example(kind, "a", **changes)], EMPTY)
    mine, other = (found.click_emission_N, found.click_N), (found.emission_N, found.conversion_N)
    if kind == "conversion":
        mine, other = other, mine
    assert mine[0] is not None
    assert mine[0].tolist() == [emission]
    np.testing.assert_array_equal(mine[1], [label])
    assert other[0] is not None
    assert other[0].tolist() == [NO_EMISSION]
    assert np.isnan(other[1]).all()


def test_a_click_and_its_conversion_example_share_a_place() -> None:
    found = _labelled([example("click", label=1.0), example("click", "b"), example("conversion", label=1.0)], EMPTY)
    assert found.request.items == ["a", "b"]
    np.testing.assert_array_equal(found.click_N, [1, 0])
    np.testing.assert_array_equal(found.conversion_N, [1, np.nan])
    assert found.emission_N is not None
    assert found.emission_N.tolist() == [Emission.CONVERTED, NO_EMISSION]


def test_a_provisional_example_and_its_correction_in_one_batch_are_both_learned() -> None:
    found = _labelled(
        [
            example("click", label=1.0),
            example("conversion", provisional=True),
            example("conversion", label=1.0, corrects=True),
        ],
        EMPTY,
    )
    assert found.request.items == ["a", "a"]
    assert found.request.item_features == [{"of": "a"}, {"of": "a"}]
    np.testing.assert_array_equal(found.click_N, [1, np.nan])
    np.testing.assert_array_equal(found.conversion_N, [np.nan, 1])
    assert found.emission_N is not None
    assert found.emission_N.tolist() == [Emission.PROVISIONAL, Emission.CORRECTED]


def test_an_example_delivered_again_is_learned_once_while_it_is_remembered() -> None:
    first, second, third = (example("click", item) for item in "abc")
    seen = SeenIds(limit=2)
    assert once([first, second, first], seen) == [first, second]
    assert once([second, third], seen) == [third]
    assert once([first], seen) == [first], "beyond the horizon"
