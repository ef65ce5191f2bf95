"""Shared rows learn from the heaviest tier that learns from a response, and from no other."""

import torch
from torch import Tensor

from ranker.config import CROSSES
from ranker.inputs.features import Featurizer
from ranker.inputs.requests import LabelledRequest
from ranker.learning.lessons import Lesson, make_lessons
from ranker.learning.taught import Taught, teaches
from ranker.learning.trained_tables import TrainedTables, trained_tables
from tests.ranker.samples import labelled, request, tiny_model

CONFIG = tiny_model()
LIGHT, HEAVY = (tier.name for tier in CONFIG.tiers)


def lessons_of(examples: list[LabelledRequest]) -> tuple[list[Lesson], TrainedTables]:
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
    lessons, _ = lessons_of([example(0, LIGHT), example(1, HEAVY), example(2, LIGHT)])
    assert [lesson.tier for lesson in lessons] == [LIGHT, HEAVY]
    light, heavy = teaches(lessons)
    assert light.tolist() == [True, False, True]  # light learns from all, heavy from what it served
    assert heavy.tolist() == [True]


def test_only_rows_of_taught_requests_are_reached() -> None:
    lessons, tables = lessons_of([example(0, LIGHT), example(1, HEAVY)])
    light = lessons[0]
    everything = rows_taught(tables, light, torch.tensor([True, True]))
    first = rows_taught(tables, light, torch.tensor([True, False]))
    second = rows_taught(tables, light, torch.tensor([False, True]))
    for table, rows in everything.items():
        assert first[table] | second[table] == rows
    alone, tables = lessons_of([example(0, LIGHT)])
    assert rows_taught(tables, alone[0], torch.tensor([True])) == first


def test_values_are_the_same_whoever_teaches() -> None:
    lessons, tables = lessons_of([example(0, LIGHT), example(1, HEAVY)])
    slots = lessons[0].batch.slots
    item_slots = frozenset({s.name for s in CONFIG.slots if s.side == "candidate"} | {CROSSES})
    cut = Taught(tables, lessons[0], torch.tensor([True, False]), item_slots).embed(slots)
    for name, values in tables.embed(slots).items():
        assert torch.equal(cut[name], values)
