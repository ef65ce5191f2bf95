"""The shared clock: nobody goes further than the slowest that lives."""

import time

from redis import Redis

from feature_store.shared_clock import CLOCKS, Agreement, SharedClock, closed_ms


def test_one_reader_goes_by_itself(redis: Redis) -> None:
    clock = SharedClock(redis, "a")
    assert clock.agree(5) == Agreement(5, 0, 1)
    assert clock.agree(9).now_ms == 9


def test_the_slowest_decides_and_places_are_by_name(redis: Redis) -> None:
    a, b = SharedClock(redis, "a"), SharedClock(redis, "b")
    assert b.agree(100) == Agreement(100, 0, 1)
    assert a.agree(40) == Agreement(40, 0, 2)
    assert b.agree(120) == Agreement(40, 1, 2)
    a.agree(110)
    assert b.agree(130).now_ms == 110


def test_closed_is_what_all_have_closed(redis: Redis) -> None:
    a, b = SharedClock(redis, "a"), SharedClock(redis, "b")
    assert a.agree(100, 70, (0, 1)).closed_ms == 70
    assert b.agree(100, 60).closed_ms == 0
    assert a.agree(100, 70, (0, 2)).closed_ms == 0  # the other has not swept its part yet
    assert b.agree(100, 60, (1, 2)).closed_ms == 60
    assert a.agree(100, 80, (0, 1)).closed_ms == 0  # this one does not know of the other any more
    assert b.agree(100, 60, (0, 2)).closed_ms == 0  # both believe to be the first
    assert a.agree(100, 80, (1, 2)).closed_ms == 60
    redis.hset(CLOCKS, "of an earlier version", b"7:100")
    assert a.agree(100, 80, (1, 2)).closed_ms == 0


def test_who_reads_again_takes_all_back(redis: Redis) -> None:
    a, b = SharedClock(redis, "a"), SharedClock(redis, "b")
    a.agree(100)
    assert b.agree(90).now_ms == 90
    a.agree(0)
    assert b.agree(95).now_ms == 0
    a.agree(96)
    assert b.agree(97).now_ms == 96


def test_a_silent_reader_no_longer_counts(redis: Redis) -> None:
    a, b = SharedClock(redis, "a", silent_s=0.05), SharedClock(redis, "b")
    b.agree(10)
    assert a.agree(50).now_ms == 10
    time.sleep(0.1)
    assert a.agree(60) == Agreement(60, 0, 1)
    assert redis.hkeys(CLOCKS) == [b"a"]
    assert b.agree(55).readers == 2  # it comes back by speaking


def test_a_reader_that_was_there_before_us_is_heard_out_first(redis: Redis) -> None:
    redis.hset(CLOCKS, "dead", b"7:10")
    clock = SharedClock(redis, "a", silent_s=0.05)
    assert clock.agree(50).now_ms == 10
    time.sleep(0.1)
    assert clock.agree(51).now_ms == 51


def test_who_looks_on_sees_what_the_readers_agree_on(redis: Redis) -> None:
    assert closed_ms(redis.hgetall(CLOCKS)) == 0
    a, b = SharedClock(redis, "a"), SharedClock(redis, "b")
    a.agree(100, 70, (0, 1))
    assert closed_ms(redis.hgetall(CLOCKS)) == 70
    b.agree(100, 60)
    assert closed_ms(redis.hgetall(CLOCKS)) == 0  # whose buckets are whose is not agreed yet
    a.agree(100, 70, (0, 2))
    b.agree(100, 60, (1, 2))
    assert closed_ms(redis.hgetall(CLOCKS)) == 60
    b.agree(0)  # has to read something again
    assert closed_ms(redis.hgetall(CLOCKS)) == 0


def test_garbage_holds_all_until_its_silence_shows_that_nobody_says_it(redis: Redis) -> None:
    clock = SharedClock(redis, "a", silent_s=0.05)
    redis.hset(CLOCKS, mapping={"x": b"\xff:nonsense:1", "y": b"", "z": b"1:2:3:4:5:6:7"})
    assert clock.agree(50, 40, (0, 1)) == Agreement(0, 0, 4)
    assert closed_ms(redis.hgetall(CLOCKS)) == 0
    time.sleep(0.1)
    assert clock.agree(51, 40, (0, 1)) == Agreement(51, 0, 1, 40)
