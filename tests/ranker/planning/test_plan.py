import numpy as np
import pytest

from ranker.arrays import I64
from ranker.config import TableConfig
from ranker.inputs.hashing import salted
from ranker.planning.plan import Plan, PlannedSlot, PlannedTable, SlotCounts, capacity_for, plan_tables, table_bytes
from tests.ranker.samples import tiny_learner, tiny_model

WIDTH = 16


def counted(name: str, table: str, counts: list[int] | I64, capacity: int = 100_000) -> SlotCounts:
    """A slot whose keys came so often."""
    slot = SlotCounts(name, table, capacity)
    keys = salted(np.arange(len(counts), dtype=np.uint64), name)
    slot.add(np.repeat(keys, counts))
    return slot


def zipf_counts(keys: int, largest: int) -> I64:
    return np.maximum(largest // np.arange(1, keys + 1), 1)


def slot_of(plan: Plan, name: str) -> PlannedSlot:
    return next(slot for slot in plan.slots if slot.name == name)


def table_of(plan: Plan, name: str) -> PlannedTable:
    return next(table for table in plan.tables if table.name == name)


@pytest.mark.parametrize(("rows", "tail_rows"), [(1, 1), (50, 8), (5_000, 300)])
def test_bytes_are_those_that_a_learner_holds(rows: int, tail_rows: int) -> None:
    config = tiny_model(rows=rows, tail_rows=tail_rows)
    learner = tiny_learner(config)
    key_map, admission, pending = learner.tables.key_maps["items"], learner.admissions["items"], learner.pending
    arrays = [learner.tables.weights["items"].numpy(), learner.adagrad_sums["items"].numpy(), pending._touched["items"]]
    arrays += [v for owner in (key_map, admission) for v in vars(owner).values() if isinstance(v, np.ndarray)]
    assert sum(array.nbytes for array in arrays) == table_bytes(rows, tail_rows, config.width)


@pytest.mark.parametrize("budget_kb", [40, 100, 400, 1_000])
def test_the_budget_is_kept_and_used(budget_kb: int) -> None:
    slots = [counted("user", "shared", zipf_counts(9_000, 5_000)), counted("item", "items", zipf_counts(4_000, 9_000))]
    plan = plan_tables(slots, width=WIDTH, budget_bytes=budget_kb * 1024)
    assert plan.nbytes <= plan.budget_bytes
    assert plan.nbytes > 0.99 * plan.budget_bytes or plan.price == 2
    assert plan.nbytes == sum(table_bytes(t.rows, t.tail_rows, WIDTH) for t in plan.tables)


def test_the_least_row_serves_as_much_in_every_table() -> None:
    slots = [
        counted("user", "shared", zipf_counts(9_000, 5_000)),
        counted("campaign", "shared", zipf_counts(3_000, 700)),
        counted("item", "items", zipf_counts(4_000, 9_000)),
    ]
    plan = plan_tables(slots, width=WIDTH, budget_bytes=120_000)
    for slot in slots:
        rows, counts = slot_of(plan, slot.name).rows, slot.counts()
        assert counts[rows - 1] >= plan.price - 1
        assert counts[rows] <= plan.price
    assert table_of(plan, "shared").rows == slot_of(plan, "user").rows + slot_of(plan, "campaign").rows
    loads = []
    for table in plan.tables:
        left = sum(s.occurrences * (1 - s.covered) for s in plan.slots if s.table == table.name)
        loads.append(left / table.tail_rows)
    assert loads[0] == pytest.approx(loads[1], rel=0.02)


def test_among_keys_that_came_equally_often_every_slot_gets_its_share() -> None:
    slots = [counted("a", "one", [10] * 3_000), counted("b", "two", [10] * 1_000)]
    plan = plan_tables(slots, width=WIDTH, budget_bytes=300_000)
    a, b = slot_of(plan, "a"), slot_of(plan, "b")
    assert 0 < b.rows < 1_000
    assert a.rows == pytest.approx(3 * b.rows, abs=3)
    assert plan.nbytes > 0.99 * plan.budget_bytes


def test_keys_seen_once_share_the_tail_however_large_the_budget() -> None:
    plan = plan_tables([counted("user", "users", [5] * 30 + [2] * 20 + [1] * 5_000)], width=WIDTH, budget_bytes=10**7)
    assert (plan.price, slot_of(plan, "user").rows) == (2, 50)
    assert slot_of(plan, "user").covered == pytest.approx(190 / 5_190)
    assert plan.nbytes < 500_000
    thrice = plan_tables([counted("user", "users", [5] * 30 + [2] * 20)], width=WIDTH, budget_bytes=10**5, min_count=3)
    assert slot_of(thrice, "user").rows == 30


def test_a_small_table_has_a_row_for_every_key_and_some_to_spare() -> None:
    slots = [counted("user", "users", zipf_counts(20_000, 50_000)), counted("surface", "small", [3, 1, 1, 1])]
    plan = plan_tables(slots, width=WIDTH, budget_bytes=200_000)
    assert plan.price > 3
    assert (slot_of(plan, "surface").rows, slot_of(plan, "surface").covered) == (4, 1.0)
    assert (table_of(plan, "small").rows, table_of(plan, "small").tail_keys) == (5, 0)


def test_expected_collisions_are_those_of_keys_thrown_at_rows() -> None:
    table = table_of(plan_tables([counted("u", "users", [1] * 400)], width=WIDTH, budget_bytes=10**4), "users")
    rng = np.random.default_rng(0)
    shared = []
    for _ in range(400):
        hits = np.bincount(rng.integers(0, table.tail_rows, 400), minlength=table.tail_rows)
        shared.append(hits[hits > 1].sum())
    assert (table.rows, table.tail_keys) == (1, 400)
    assert table.tail_collisions == pytest.approx(np.mean(shared), rel=0.02)


def test_more_keys_than_are_counted_are_estimated() -> None:
    counts = zipf_counts(60_000, 3_000)
    exact, bounded = counted("user", "users", counts), counted("user", "users", counts, capacity=4_000)
    assert exact.distinct() == (60_000, 0)
    distinct, error = bounded.distinct()
    assert 0 < error < 0.01 * distinct
    assert distinct == pytest.approx(60_000, abs=3 * error)
    for share in (0.2, 0.5):
        assert bounded.rows_for(share) == pytest.approx(exact.rows_for(share), rel=0.25)
    assert bounded.rows_for(1.0) == pytest.approx(60_000, rel=0.03)


def test_rows_for_a_share_by_hand() -> None:
    slot = counted("user", "users", [6, 3, 1])
    assert [slot.rows_for(share) for share in (0.0, 0.5, 0.6, 0.61, 0.9, 1.0)] == [0, 1, 1, 2, 2, 3]


def test_merged_counts_plan_as_the_whole() -> None:
    counts = zipf_counts(2_000, 900)
    keys = np.random.default_rng(0).permutation(np.repeat(salted(np.arange(2_000, dtype=np.uint64), "u"), counts))
    whole, left, right = (SlotCounts("u", "users", 5_000) for _ in range(3))
    whole.add(keys)
    left.add(keys[:5_000])
    right.add(keys[5_000:])
    left.merge(right)
    assert plan_tables([left], width=WIDTH, budget_bytes=50_000) == plan_tables(
        [whole], width=WIDTH, budget_bytes=50_000
    )


def test_counting_as_many_keys_as_could_have_rows_is_enough() -> None:
    counts = zipf_counts(30_000, 30_000)
    budget = 200_000
    exact = counted("user", "users", counts)
    bounded = counted("user", "users", counts, capacity=capacity_for(budget, WIDTH))
    sizes = [table_of(plan_tables([s], width=WIDTH, budget_bytes=budget), "users") for s in (exact, bounded)]
    assert sizes[0].rows == pytest.approx(sizes[1].rows, rel=0.05)


def test_a_plan_is_a_table_configuration() -> None:
    plan = plan_tables([counted("u", "users", [3] * 100)], width=WIDTH, budget_bytes=500_000)
    (table,) = plan.tables
    assert TableConfig(name=table.name, rows=table.rows, tail_rows=table.tail_rows).rows == 125


def test_without_occurrences_there_is_no_plan() -> None:
    with pytest.raises(ValueError, match="none in any slot"):
        plan_tables([SlotCounts("u", "users", 10)], width=WIDTH, budget_bytes=10**6)


def test_a_budget_below_one_row_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"need [0-9]+ bytes at least, got a budget of 100"):
        plan_tables([counted("u", "users", [3] * 100)], width=WIDTH, budget_bytes=100)
