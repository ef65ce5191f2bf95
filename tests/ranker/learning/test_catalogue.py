"""The catalogue travels with the rows: what the trainer knows of items, every replica comes to know, and no more."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ranker.config import ITEM, ModelConfig
from ranker.inputs.hashing import hash64, salted
from ranker.inputs.requests import LabelledRequest, ScoringRequest
from ranker.inputs.tables import PlainTables
from ranker.learning.learner import Learner
from ranker.learning.model_copy import ModelCopy
from ranker.learning.state import restore, training_state
from ranker.learning.trained_tables import TrainedTables
from ranker.updates.changes import Changes
from ranker.updates.image import Image, NotApplicable, new_image
from ranker.updates.record import Update, UpdateHeader
from tests.ranker.samples import COMPRESS, at, labelled, request, tiny_learner, tiny_model, traffic

SMALL = tiny_model(rows=12)
"""So few rows that items lose theirs all the time."""


def key(value: str, slot: str) -> int:
    return int(salted(np.array([hash64(value)], np.uint64), slot)[0])


def entries(tables: PlainTables | TrainedTables) -> dict[int, int]:
    """Category by item, of those whose entry is known."""
    keys, rows = tables.key_maps["items"].items()
    entry_K = tables.catalogue.entry_RS[rows, 0]
    return {int(k): int(e) for k, e in zip(keys, entry_K, strict=True) if e}


def publish(learner: Learner, image: Image, number: int, *, whole: bool = False) -> Changes:
    changes = learner.take_changes(None if number == 1 or whole else image)
    header = UpdateHeader(
        epoch=1, number=number, previous=number - 1, digest=learner.config.digest, trainer="t", reset=number == 1
    )
    image.apply(Update(header, changes), at(number))
    return changes


def of_item(item: str, category: str, number: int) -> LabelledRequest:
    scoring: ScoringRequest = replace(request("u", [item]), item_features=[{"category": category, "price": 1.0}])
    return labelled(number, scoring, [1.0])


def test_replicas_know_what_the_trainer_knows_also_of_rows_that_change_hands() -> None:
    learner, image = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
    evicted = 0
    for number, examples in enumerate(traffic(0, 60), 1):
        evicted += learner.learn(examples).evicted
        publish(learner, image, number)
        assert entries(image.tables) == entries(learner.tables)
    assert evicted > 100
    assert entries(image.tables)


def test_an_item_that_changes_is_counted_as_what_it_is_now() -> None:
    learner, image = tiny_learner(tiny_model()), new_image(tiny_model(), COMPRESS)
    for number, category in enumerate(("shoes", "shoes", "boots"), 1):
        learner.learn([of_item("a", category, number)])
        changes = publish(learner, image, number)
        assert entries(image.tables)[key("a", ITEM)] == key(category, "category")
        assert len(changes.tables["items"].catalogued_C) == (category == "boots" or number == 1)


def test_of_two_requests_of_a_batch_the_later_is_right() -> None:
    learner = tiny_learner(tiny_model())
    learner.learn([of_item("a", "shoes", 1), of_item("a", "boots", 2)])
    assert entries(learner.tables) == {key("a", ITEM): key("boots", "category")}


def test_an_entry_goes_with_the_row_of_its_item() -> None:
    """Whoever gets the row of another starts without."""
    learner = tiny_learner(SMALL)
    for number in range(40):
        learner.learn([of_item(f"i{number}", f"c{number}", number)])
        for item, category in entries(learner.tables).items():
            assert any(item == key(f"i{n}", ITEM) and category == key(f"c{n}", "category") for n in range(number + 1))


def test_training_state_and_image_come_back_with_it() -> None:
    learner, image = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
    for number, examples in enumerate(traffic(0, 20), 1):
        learner.learn(examples)
        if number % 3 == 0 or number == 1:
            publish(learner, image, number)
    again, other = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
    restore(again, training_state(learner))
    assert entries(again.tables) == entries(learner.tables)
    assert image.position is not None
    other.load(image.tensors(), image.position, watermark_ms=0, offsets={})
    assert entries(other.tables) == entries(image.tables)
    # what had not gone out yet goes out of both
    publish(again, other, 21)
    publish(learner, image, 21)
    assert entries(other.tables) == entries(image.tables) == entries(learner.tables)


def test_a_copy_keeps_what_it_was_copied_from() -> None:
    learner = tiny_learner(tiny_model())
    learner.learn([of_item("a", "shoes", 1)])
    copied = learner.copy()
    assert isinstance(copied, ModelCopy)
    learner.learn([of_item("a", "boots", 2)])
    assert entries(copied.tables) == {key("a", ITEM): key("shoes", "category")}
    assert entries(learner.copy(copied).tables) == {key("a", ITEM): key("boots", "category")}


def changed(model: ModelConfig, what: str) -> tuple[Image, Update]:
    """An image of one update, and another update that does not fit it."""
    learner, image = tiny_learner(model), new_image(model, COMPRESS)
    learner.learn([of_item("a", "shoes", 1)])
    publish(learner, image, 1)
    learner.learn([of_item("a", "boots", 2)])
    changes = learner.take_changes(image)
    items = changes.tables["items"]
    assert len(items.catalogued_C) == 1
    if what == "an item without a row":
        items = replace(items, catalogued_C=np.array([99], np.uint64))
    elif what == "another number of slots":
        items = replace(items, entry_CS=np.zeros((1, 2), np.uint64))
    elif what == "more entries than items":
        items = replace(items, entry_CS=items.entry_CS.repeat(3, axis=0))
    elif what == "an item twice":
        items = replace(items, catalogued_C=items.catalogued_C.repeat(2), entry_CS=items.entry_CS.repeat(2, axis=0))
    elif what == "an item that leaves":
        items = replace(items, evicted_V=items.catalogued_C, keys_K=items.keys_K[:0], rows_K=items.rows_K[:0])
    tables = changes.tables | {"items": items}
    if what == "another table":
        tables["shared"] = replace(changes.tables["shared"], catalogued_C=items.catalogued_C, entry_CS=items.entry_CS)
    header = UpdateHeader(epoch=1, number=2, previous=1, digest=model.digest, trainer="t")
    return image, Update(header, Changes(tables, changes.dense))


@pytest.mark.parametrize(
    "what",
    [
        "an item without a row",
        "another number of slots",
        "more entries than items",
        "an item twice",
        "an item that leaves",
        "another table",
    ],
)
def test_entries_that_do_not_fit_change_nothing(what: str) -> None:
    image, update = changed(tiny_model(), what)
    before = image.tensors()
    with pytest.raises(NotApplicable, match="catalogue"):
        image.apply(update, at(2))
    after = image.tensors()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_an_image_of_another_catalogue_is_refused() -> None:
    learner, image = tiny_learner(tiny_model()), new_image(tiny_model(), COMPRESS)
    learner.learn([of_item("a", "shoes", 1)])
    publish(learner, image, 1)
    tensors = image.tensors()
    tensors["catalogue/items/values"] = tensors["catalogue/items/values"].repeat(1, 2)
    assert image.position is not None
    with pytest.raises(NotApplicable, match="catalogue must be u64"):
        new_image(tiny_model(), COMPRESS).load(tensors, image.position, watermark_ms=0, offsets={})


def test_an_item_that_left_and_came_back_between_two_updates_has_its_new_entry() -> None:
    model = tiny_model(rows=2)
    learner, image = tiny_learner(model), new_image(model, COMPRESS)

    def learn(item: str, *log: str) -> None:
        shown = replace(request("u", [item], log), item_features=[{"category": f"c{item}"}])
        learner.learn([labelled(1, shown, [1.0])])

    for item in ("a", "b"):
        learn(item)
    learner.mark_all()
    publish(learner, image, 1)
    for item, logged in (("b", "x"), ("b", "x"), ("b", "a"), ("b", "a")):
        learn(item, logged)  # a leaves for x, and comes back into its row as an item of the log, of no category
    publish(learner, image, 2)
    assert entries(image.tables) == entries(learner.tables)


def test_a_candidate_without_features_leaves_the_entry_as_it_was() -> None:
    learner = tiny_learner(tiny_model())
    learner.learn([of_item("a", "shoes", 1)])
    learner.learn([labelled(2, replace(request("u", ["a"]), item_features=[{}]), [1.0])])
    assert entries(learner.tables) == {key("a", ITEM): key("shoes", "category")}


def test_an_item_twice_in_a_step_once_without_features_is_as_in_two_steps() -> None:
    with_it, without = (labelled(n, request(f"u{n}", ["a"]), [0.0]) for n in range(2))
    without = replace(without, request=replace(without.request, item_features=[{}]))
    one, two = tiny_learner(tiny_model()), tiny_learner(tiny_model())
    one.learn([with_it, without])
    two.learn([with_it])
    two.learn([without])
    assert entries(one.tables) == entries(two.tables) != {}


def test_entries_for_a_model_whose_catalogue_has_no_slots_are_refused() -> None:
    model = tiny_model(evidence=(ITEM,))
    learner, image = tiny_learner(model), new_image(model, COMPRESS)
    learner.learn([of_item("a", "shoes", 1)])
    changes = learner.take_changes(None)
    items = changes.tables["items"]
    items = replace(items, catalogued_C=items.keys_K[:1], entry_CS=np.zeros((1, 0), np.uint64))
    header = UpdateHeader(epoch=1, number=1, previous=0, digest=model.digest, trainer="t", reset=True)
    with pytest.raises(NotApplicable, match="catalogue"):
        image.apply(Update(header, Changes(changes.tables | {"items": items}, changes.dense)), at(1))
    assert len(image.tables.key_maps["items"]) == 0
