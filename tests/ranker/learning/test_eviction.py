import dataclasses

import numpy as np
import pytest
import torch

from ranker.arrays import U64
from ranker.config import ModelConfig, TableConfig
from ranker.engine import Engine
from ranker.inputs.hashing import salted
from ranker.inputs.keymap import KeyMap
from ranker.learning.eviction import Admission
from tests.ranker.samples import COMPRESS, at, labelled, request, tiny_learner, tiny_model, update_of

AT_ONCE = 1_024
"""Rows that may leave for being idle in one step."""


def u64(*keys: int) -> U64:
    return np.array(keys, np.uint64)


def test_the_least_recently_used_give_way_in_a_full_table() -> None:
    admission = Admission(KeyMap(4))
    assert admission.admit(u64(10, 11, 12, 13), step=0).rows_K.tolist() == [0, 1, 2, 3]
    admission.admit(u64(10, 12), step=1)
    assert admission.admit(u64(20, 21), step=1).evicted_V.tolist() == []  # they may never come again
    admitted = admission.admit(u64(20, 21), step=2)
    assert admitted.evicted_V.tolist() == [11, 13]
    assert admitted.rows_K.tolist() == [1, 3]
    assert admission.key_map.find(u64(10, 11, 12, 13, 20, 21)).tolist() == [0, -1, 2, -1, 1, 3]


def test_keys_of_this_step_are_never_evicted_for_one_another() -> None:
    admission = Admission(KeyMap(4))
    admitted = admission.admit(u64(1, 2, 3, 4, 5, 6), step=0)
    assert admitted.keys_K.tolist() == [1, 2, 3, 4]
    assert admitted.evicted_V.tolist() == []
    admitted = admission.admit(u64(5, 6, 1), step=1)
    assert (admitted.keys_K.tolist(), admitted.evicted_V.tolist()) == ([5, 6], [2, 3])


@pytest.mark.parametrize("idle_steps", [None, 5])
def test_admission_is_deterministic_and_survives_a_restore(idle_steps: int | None) -> None:
    rng = np.random.default_rng(3)
    first, second = Admission(KeyMap(300), idle_steps), Admission(KeyMap(300), idle_steps)
    for step in range(60):
        keys = np.unique(rng.integers(0, 900, 40, dtype=np.uint64))
        a, b = first.admit(keys, step), second.admit(keys, step)
        assert a.rows_K.tolist() == b.rows_K.tolist()
        assert a.evicted_V.tolist() == b.evicted_V.tolist()
        restored = Admission(KeyMap(300), idle_steps)
        restored.restore(second.state())
        second = restored
    assert len(first.key_map) > (250 if idle_steps is None else 100)


def test_the_hand_goes_on_where_it_was_after_a_restore() -> None:
    """In a table that is larger than what the hand passes in a step."""
    admissions = [Admission(KeyMap(5_000)) for _ in range(2)]
    for step in range(6):
        for admission in admissions:
            admission.admit(np.arange(1_000 * step, 1_000 * (step + 1), dtype=np.uint64), step)
    first, second = admissions
    restored = Admission(KeyMap(5_000))
    restored.restore(second.state())
    more = np.arange(10_000, 10_050, dtype=np.uint64)
    assert first.admit(more, 6).evicted_V.tolist() == restored.admit(more, 6).evicted_V.tolist()


def test_what_is_used_often_stays_under_full_churn() -> None:
    """Each step brings 200 keys never seen before, which come twice. By exact order of use the oldest of about 40 steps
    would leave."""
    admission, rng = Admission(KeyMap(10_000)), np.random.default_rng(0)
    keys = salted(np.arange(100_000, dtype=np.uint64), "churn")
    turnover = 8_000 // 200
    last_used: dict[int, int] = {}
    ages: list[int] = []
    for step in range(6 * turnover):
        used = np.unique(np.append(rng.choice(keys[:2_000], 300), keys[10_000 + 200 * step :][:400]))
        admitted = admission.admit(used, step)
        last_used.update(dict.fromkeys(used.tolist(), step))
        ages += [step - last_used[key] for key in admitted.evicted_V.tolist()]
    assert min(ages) > turnover // 4
    assert np.percentile(ages, 5) > turnover // 2
    assert len(admission.key_map) == 10_000
    assert 150 < len(admitted.evicted_V) <= 200


def test_keys_that_come_once_take_nobodys_place() -> None:
    admission = Admission(KeyMap(1_000))
    keys = salted(np.arange(101_000, dtype=np.uint64), "once")
    admission.admit(keys[:1_000], 0)
    for step in range(1, 101):
        assert len(admission.admit(keys[1_000 * step :][:1_000], step).evicted_V) == 0
    assert len(admission.admit(keys[-1_000:], 101).evicted_V) > 500  # a thousand marks for a thousand keys


def test_idle_rows_leave_a_few_at_a_time_and_used_ones_stay() -> None:
    rows, idle_steps = 10 * AT_ONCE, 30
    admission = Admission(KeyMap(rows), idle_steps)
    keys = np.arange(rows, dtype=np.uint64)
    admission.admit(keys, 0)
    left: list[int] = []
    for step in range(1, idle_steps + 12):
        admitted = admission.admit(keys[:100], step)
        assert len(admitted.evicted_V) <= AT_ONCE
        assert step > idle_steps or not len(admitted.evicted_V)
        left += admitted.evicted_V.tolist()
    assert sorted(left) == list(range(100, rows))
    assert admission.key_map.find(keys[:100]).min() >= 0


def test_without_idle_steps_rows_are_kept_until_they_are_needed() -> None:
    admission = Admission(KeyMap(8))
    admission.admit(u64(1, 2, 3), 0)
    assert admission.admit(u64(4), 10**9).evicted_V.tolist() == []


def test_one_key_new_and_one_idle_in_the_same_step() -> None:
    admission = Admission(KeyMap(2), idle_steps=1)
    admission.admit(u64(1, 2), 0)
    admitted = admission.admit(u64(3), 2)
    assert (admitted.evicted_V.tolist(), admitted.freed_V.tolist()) == ([1, 2], [0, 1])
    assert (admitted.keys_K.tolist(), admitted.rows_K.tolist()) == ([3], [0])


def with_idle_steps(idle_steps: int | None, rows: int = 256) -> ModelConfig:
    config = tiny_model(rows=rows)
    return dataclasses.replace(
        config, tables=tuple(dataclasses.replace(table, idle_steps=idle_steps) for table in config.tables)
    )


def test_an_idle_key_leaves_learner_and_replica_with_its_optimizer_state() -> None:
    learner = tiny_learner(with_idle_steps(2))
    engine = Engine(learner.config, COMPRESS)
    learner.learn([labelled(0, request("u", ["gone", "stays"]), [1, 0])])
    learner.learn([labelled(1, request("u", ["gone", "stays"]), [1, 0])])  # with rows of their own
    engine.apply(update_of(learner, 1), at(1))
    keys, rows = learner.tables.key_maps["items"].items()
    assert (learner.adagrad_sums["items"][rows] > 0).all()
    evicted: list[int] = []
    for number in range(2, 7):
        report = learner.learn([labelled(number, request("u", ["stays"]), [0])])
        update = update_of(learner, number)
        evicted += update.changes.tables["items"].evicted_V.tolist()
        assert report.evicted == sum(len(table.evicted_V) for table in update.changes.tables.values())
        engine.apply(update, at(number))
    assert len(evicted) == 1
    (row,) = rows[keys == np.uint64(evicted[0])]
    assert learner.adagrad_sums["items"][row] == 0
    assert not learner.tables.weights["items"][row].any()
    assert engine.image.tables.key_maps["items"].items()[0].tolist() == [k for k in keys.tolist() if k not in evicted]


def test_a_row_that_changes_hands_starts_with_a_fresh_optimizer_state() -> None:
    learner = tiny_learner(with_idle_steps(None, rows=1))
    for number in range(2):
        learner.learn([labelled(number, request("u", ["first"]), [1])])
    assert learner.adagrad_sums["items"][0] > 0
    for number in (2, 3):
        learner.learn([labelled(number, request("u", ["second"]), [1])])
    assert learner.adagrad_sums["items"][0] == 0
    tail = 1 + int(learner.tables.key_maps["items"].items()[0][0] % np.uint64(8))
    assert torch.equal(learner.tables.weights["items"][0], learner.tables.weights["items"][tail])


def test_idle_steps_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="idle_steps must be >= 1"):
        TableConfig(name="items", idle_steps=0)
