"""Phases of a loop: all of the thread's time is in one of them, and it is published."""

import time

import pytest
from prometheus_client import REGISTRY

from streams.runtime.laps import Laps


def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def published(phase: str) -> float:
    return REGISTRY.get_sample_value("tiderank_processor_seconds_total", {"phase": phase}) or 0.0


def test_each_stretch_belongs_to_the_phase_named_at_its_end() -> None:
    first, second, began = published("first"), published("second"), time.thread_time()
    laps = Laps()
    spin(0.02)
    laps.lap("first")
    spin(0.01)
    laps.lap("second")
    spin(0.02)
    laps.lap("first")
    laps.publish()
    took = time.thread_time() - began
    found_first, found_second = published("first") - first, published("second") - second
    assert found_first >= 0.04
    assert found_second >= 0.01
    assert found_first + found_second <= took


def test_it_is_published_once_a_second_and_then_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    laps = Laps()
    spin(0.001)
    laps.lap("third")
    laps.publish()
    first = published("third")
    spin(0.001)
    laps.lap("third")
    laps.publish()
    assert published("third") == first > 0
    now_s = 101.0
    laps.publish()
    assert first < published("third") < 10 * first


def test_time_asleep_is_no_processor_time() -> None:
    before, laps = published("asleep"), Laps()
    time.sleep(0.05)
    laps.lap("asleep")
    laps.publish()
    assert published("asleep") - before < 0.04
