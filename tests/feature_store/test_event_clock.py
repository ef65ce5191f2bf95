"""The event clock, against what must hold of it after any sequence of readings."""

from hypothesis import given
from hypothesis import strategies as st

from feature_store import EventClock

partitions = st.integers(0, 2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("observe"), partitions, st.integers(0, 100)),
        st.tuples(st.just("at_end"), partitions),
        st.tuples(st.just("add"), partitions),
        st.tuples(st.just("drop"), partitions),
    ),
    max_size=40,
)
BOUND = 80


@given(steps)
def test_the_clock_never_goes_back_nor_beyond_what_was_read(
    taken: list[tuple[str, int] | tuple[str, int, int]],
) -> None:
    clock = EventClock()
    newest: dict[int, int] = {}
    ended: dict[int, bool] = {}
    before = 0
    for step in taken:
        match step:
            case ("observe", partition, ms):
                assert clock.observe("t", partition, ms, bound_ms=BOUND) == (ms <= BOUND)
                ended[partition] = False
                if ms <= BOUND:
                    newest[partition] = max(ms, newest.get(partition, 0))
            case ("at_end", partition):
                clock.at_end("t", partition)
                ended[partition] = True
            case ("add", partition):
                clock.add("t", partition)
                ended.setdefault(partition, False)
            case (_, partition):
                clock.drop("t", partition)
                newest.pop(partition, None)
                ended.pop(partition, None)
        now = clock.now_ms()
        assert before <= now <= BOUND
        if now > before:
            behind = [newest.get(p, 0) for p, is_ended in ended.items() if not is_ended]
            assert now == (min(behind) if behind else max(newest.values()))
        before = now


def test_a_partition_that_lags_holds_the_clock_until_it_is_read_to_its_end() -> None:
    clock = EventClock()
    clock.add("t", 0)
    clock.add("t", 1)
    clock.observe("t", 0, 50, bound_ms=100)
    assert clock.now_ms() == 0, "partition 1 has shown nothing yet"
    clock.observe("t", 1, 20, bound_ms=100)
    assert clock.now_ms() == 20
    clock.at_end("t", 1)
    assert clock.now_ms() == 50
    clock.at_end("t", 0)
    assert clock.now_ms() == 50


def test_one_event_from_2099_moves_nothing() -> None:
    clock = EventClock()
    clock.observe("t", 0, 1000, bound_ms=2000)
    assert not clock.observe("t", 0, 4_070_908_800_000, bound_ms=2000)
    clock.at_end("t", 0)
    assert clock.now_ms() == 1000


def test_a_partition_given_away_holds_nothing_back() -> None:
    clock = EventClock()
    clock.observe("t", 0, 10, bound_ms=100)
    clock.observe("t", 1, 70, bound_ms=100)
    clock.drop("t", 0)
    assert clock.now_ms() == 70


def test_a_partition_known_to_have_more_holds_the_clock_where_it_stands() -> None:
    clock = EventClock()
    clock.observe("t", 0, 100, bound_ms=1_000)
    clock.observe("t", 1, 50, bound_ms=1_000)
    for partition in (0, 1):
        clock.at_end("t", partition)
    assert clock.now_ms() == 100
    clock.behind("t", 1)
    clock.observe("t", 0, 200, bound_ms=1_000)
    assert clock.now_ms() == 100
    clock.at_end("t", 1)
    assert clock.now_ms() == 200
