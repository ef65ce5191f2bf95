"""Crosses: one key for what several slots say together."""

from dataclasses import replace

import numpy as np
import pytest

from ranker.config import CROSSES, HOUR, ITEM, SURFACE, ModelConfig, Slot, TableConfig
from ranker.inputs.features import Featurizer
from ranker.inputs.tables import PlainTables
from tests.ranker.samples import request, tiny_model

CONFIG = tiny_model()


def rows(config: ModelConfig, *requests_: object) -> np.ndarray:
    """[N, C]: rows of the crosses' table."""
    featurizer = Featurizer(config)
    batch = featurizer.batch(featurizer.keys(list(requests_), 4), PlainTables(config))  # type: ignore[arg-type]
    values = batch.slots[CROSSES]
    assert values.lengths is not None
    assert (values.lengths == len(config.crosses)).all()
    return values.rows_T.numpy().reshape(batch.num_candidates, -1)


def test_a_cross_is_of_all_its_values() -> None:
    """Equal where they are; another where one differs, up to the few of 4,096 rows that two share."""
    config = replace(CONFIG, cross_rows=4_096)
    one = replace(request(items=["a", "b", "a"]), item_features=[{"category": c} for c in ("x", "x", "y")])
    found = rows(config, one, replace(one, features={"interests": ["other"]}))
    by_category, by_interest, by_hour = found.T
    assert by_category[0] == by_category[1] == by_category[3] != by_category[2]
    assert by_interest[0] == by_interest[1]
    assert len({by_interest[0], by_interest[2], by_interest[3]}) == 3
    assert len(set(by_hour[:3].tolist())) == 3
    assert by_hour[:3].tolist() == by_hour[3:].tolist()
    assert len({by_category[0], by_interest[0], by_hour[0]}) == 3, "crosses have keys of their own"


def test_the_order_of_slots_and_the_company_do_not_matter() -> None:
    swapped = replace(CONFIG, crosses=tuple(tuple(reversed(cross)) for cross in CONFIG.crosses))
    a, b = request("u", ["a", "b"]), request("v", ["c"])
    together = rows(CONFIG, a, b)
    assert together.tolist() == rows(swapped, a, b).tolist()
    assert together[2:].tolist() == rows(CONFIG, b).tolist()


def test_of_several_values_the_first_counts() -> None:
    several, first = request(), replace(request(), features={"interests": "x", "age": 30.0})
    assert several.features["interests"] == ["x", "y"]
    assert rows(CONFIG, several).tolist() == rows(CONFIG, first).tolist()


def test_the_table_is_the_crosses_own_and_starts_at_nothing() -> None:
    tables = PlainTables(CONFIG)
    assert tables.weights[CROSSES].shape == (64, 2)
    assert not tables.weights[CROSSES].any()
    assert rows(CONFIG, request()).max() < 64
    assert CROSSES not in PlainTables(replace(CONFIG, crosses=())).weights


def test_past_pages_have_the_lasting_crosses_and_those_with_the_hour() -> None:
    assert CONFIG.past_crosses == (0, 1, 2)
    assert replace(CONFIG, crosses=((SURFACE, ITEM), (HOUR,), (ITEM,))).past_crosses == (1, 2)
    sent = tuple(replace(s, side="user") if s.name == HOUR else s for s in CONFIG.slots)  # a feature of that name
    assert replace(CONFIG, slots=sent, crosses=((HOUR,),)).past_crosses == (0,)


def test_lasting_crosses_are_of_users_and_items() -> None:
    assert CONFIG.lasting_crosses == (0, 1)
    assert replace(CONFIG, evidence=(ITEM,)).lasting_crosses == ()
    assert replace(CONFIG, crosses=((SURFACE, ITEM), (ITEM,))).lasting_crosses == (1,)


@pytest.mark.parametrize(
    ("crosses", "message"),
    [
        ((("nothing", ITEM),), "a cross names categorical slots, .*nothing"),
        (((ITEM, "price"),), "a cross names categorical slots, .*price"),
        (((ITEM, ITEM),), "each once"),
        (((),), "a cross names categorical slots"),
        (((ITEM, HOUR), (HOUR, ITEM)), "a cross is given once"),
    ],
)
def test_what_cannot_be_crossed_is_refused(crosses: tuple[tuple[str, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, crosses=crosses)


@pytest.mark.parametrize("crosses", [CONFIG.crosses, ()])
def test_nothing_else_is_called_so(crosses: tuple[tuple[str, ...], ...]) -> None:
    """With no crosses neither: its rows would be stepped as crosses' are."""
    with pytest.raises(ValueError, match="call the configured one otherwise"):
        replace(CONFIG, crosses=crosses, tables=(*CONFIG.tables, TableConfig(name=CROSSES)))
    with pytest.raises(ValueError, match="call the configured one otherwise"):
        replace(CONFIG, crosses=crosses, slots=(*CONFIG.slots, Slot(name=CROSSES, side="user")))
