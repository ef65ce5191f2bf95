"""Shared rows learn from the heaviest tier that learns from a response, and from no other."""

import torch
from torch import Tensor

from ranker.config import CROSSES
from ranker.inputs.features import Featurizer
from ranker.inputs.requests import LabelledRequest
from ranker.learning.lessons import Lesson, make_lessons
from ranker.learning.taught import Taught, taught_together, teaches
from ranker.learning.trained_tables import TrainedTables, trained_tables
from tests.ranker.samples import labelled, request, tiny_model

CONFIG = tiny_model()
LIGHT, HEAVY = (tier.name for tier in CONFIG.tiers)


def lessons_and_tables(examples: list[LabelledRequest]) -> tuple[list[Lesson], TrainedTables]:
    tables = trained_tables(CONFIG)
    return make_lessons(CONFIG, Featurizer(CONFIG), tables, examples, 0.0), tables


def rows_taught(tables: TrainedTables, lesson: Lesson, teaches_B: Tensor) -> dict[str, set[int]]:
    """By table, the rows that the sum of all values of the lesson reaches back into."""
    item_slots = frozenset({s.name for s in CONFIG.slots if s.side == "candidate"} | {CROSSES})
    taught = Taught(tables, lesson, teaches_B, item_slots)
    tables.zero_grad()
    torch.cat([v.flatten() for v in taught.embed(lesson.batch.slots).values()]).sum().backward()  # type: ignore[no-untyped-call]
    return {name: set(rows[gradients.abs().sum(1) > 0].tolist()) for name, rows, gradients in tables.gradients()}


def example(number: int, tier: str) -> LabelledRequest:
    items = [f"item {number}", f"other {number}"]
    return labelled(number, request(f"user {number}", items, log=[f"seen {number}"]), [1, 0], tier=tier)


def test_the_heaviest_lesson_of_a_response_teaches() -> None:
    lessons, _ = lessons_and_tables([example(0, LIGHT), example(1, HEAVY), example(2, LIGHT)])
    assert [lesson.tier for lesson in lessons] == [LIGHT, HEAVY]
    light, heavy = teaches(lessons)
    assert light.tolist() == [True, False, True]  # light learns from all, heavy from what it served
    assert heavy.tolist() == [True]


def test_only_rows_of_taught_requests_are_reached() -> None:
    lessons, tables = lessons_and_tables([example(0, LIGHT), example(1, HEAVY)])
    light = lessons[0]
    everything = rows_taught(tables, light, torch.tensor([True, True]))
    first = rows_taught(tables, light, torch.tensor([True, False]))
    second = rows_taught(tables, light, torch.tensor([False, True]))
    for table, rows in everything.items():
        assert first[table] | second[table] == rows
    alone, tables = lessons_and_tables([example(0, LIGHT)])
    assert rows_taught(tables, alone[0], torch.tensor([True])) == first


def test_values_are_the_same_whoever_teaches() -> None:
    lessons, tables = lessons_and_tables([example(0, LIGHT), example(1, HEAVY)])
    slots = lessons[0].batch.slots
    item_slots = frozenset({s.name for s in CONFIG.slots if s.side == "candidate"} | {CROSSES})
    cut = Taught(tables, lessons[0], torch.tensor([True, False]), item_slots).embed(slots)
    for name, values in tables.embed(slots).items():
        assert torch.equal(cut[name], values)


def test_together_they_read_and_teach_as_each_would_alone() -> None:
    examples = [example(0, LIGHT), example(1, HEAVY), example(2, HEAVY)]
    tables = trained_tables(CONFIG)
    lessons = make_lessons(CONFIG, Featurizer(CONFIG), tables, examples, 0.0)
    item_slots = frozenset({s.name for s in CONFIG.slots if s.side == "candidate"} | {CROSSES})
    alone = [Taught(tables, x, of, item_slots) for x, of in zip(lessons, teaches(lessons), strict=True)]
    reached = []
    for embedders in (alone, taught_together(tables, lessons, item_slots)):
        read = [by.embed(x.batch.slots) for by, x in zip(embedders, lessons, strict=True)]
        tables.zero_grad()
        torch.cat([v.flatten() * (1 + n) for n, of in enumerate(read) for v in of.values()]).sum().backward()  # type: ignore[no-untyped-call]
        reached.append((read, {name: (rows, g) for name, rows, g in tables.gradients()}))
    (apart, of_apart), (together, of_together) = reached
    for one, other in zip(apart, together, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert of_apart.keys() == of_together.keys()
    for name, (rows, gradients) in of_apart.items():
        assert (gradients != 0).any()
        taught = {int(row): g for row, g in zip(*of_together[name], strict=True)}
        for row, gradient in zip(rows.tolist(), gradients, strict=True):
            torch.testing.assert_close(taught.pop(row), gradient)
        assert not taught
