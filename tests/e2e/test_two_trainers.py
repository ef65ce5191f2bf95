"""One trainer writes the weights, whoever else believes that it does: by the order of the log alone."""

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from ranker.updates.record import MalformedRecord, Open, UpdateHeader, peek_header
from streams.client import RankingClient
from streams.kafka.connection import SESSION_TIMEOUT_MS
from streams.kafka.scan import read_topic
from streams.local.kafka import why_not
from streams.simulate.config import demo
from streams.simulate.driver import Commands, Phase, simulate
from streams.simulate.world import World
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import RankingResponse
from streams.wire.topics import RESPONSES, TOPICS, UPDATES
from tests.e2e.running import House, await_model, check_alive, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"needs the real broker: {why_not()}"),
]
PATIENCE_S = 120.0
LOST = "another trainer has opened"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("two"), ["rank", "ingest"], broker="kafka") as up:
        yield up


@contextmanager
def load(house: House) -> Iterator[None]:
    commands = Commands()

    def drive() -> None:
        with RankingClient(house.kafka) as client:
            simulate(client, World(demo(), seed=4), [Phase(rate=8)], prefix="two", commands=commands, drain_s=0)

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield
    finally:
        commands.put("stop")
        thread.join()


def headers(house: House) -> list[Open | UpdateHeader]:
    """Reads the headers of all that is on the log, in its order."""
    found = []
    for record in read_topic(house.kafka, UPDATES):
        try:
            found.append(peek_header(record.value or b""))
        except MalformedRecord:
            continue
    return found


def newest(house: House) -> tuple[int, int]:
    """Epoch and number of the newest update that counts."""
    return max((h.epoch, h.number) for h in headers(house) if isinstance(h, UpdateHeader))


def wait_until(reached: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


def test_of_two_trainers_started_at_once_one_stops_and_says_why(house: House) -> None:
    both = [house.add("train-one"), house.add("train-two")]
    for each in both:
        each.child.start()
    wait_until(lambda: sum(each.child.alive() for each in both) == 1, "both go on")
    loser, winner = sorted(both, key=lambda each: each.child.alive())
    assert LOST in loser.child.last_words()
    winner.await_ready()
    await_model(house)
    del house.workers[next(name for name, worker in house.workers.items() if worker is loser)]


def test_a_halted_trainer_that_wakes_after_another_has_begun_changes_nothing(house: House) -> None:
    old_name, old = next((n, w) for n, w in house.workers.items() if n.startswith("train") and w.child.alive())
    with load(house):
        time.sleep(3.0)
        os.kill(old.child.pid, signal.SIGSTOP)
        halted = newest(house)
        new = house.add("train-three")
        new.child.start()
        new.await_ready()
        time.sleep(SESSION_TIMEOUT_MS / 1000 + 1)  # its partitions, and so its examples, are the new one's
        wait_until(lambda: newest(house)[0] > halted[0] and newest(house)[1] > 3, "the new trainer publishes nothing")
        os.kill(old.child.pid, signal.SIGCONT)
        wait_until(lambda: not old.child.alive(), "the old trainer goes on")
        woken = newest(house)
        wait_until(lambda: newest(house)[1] > woken[1] + 3, "the new trainer was stopped by the old one")
    assert LOST in old.child.last_words()
    del house.workers[old_name]
    opened = [h.epoch for h in headers(house) if isinstance(h, Open)]
    assert newest(house)[0] == max(opened) == woken[0]
    check_alive(house)
    by_partition = versions_served(house).values()
    for served in by_partition:
        assert all(before <= after for before, after in pairwise(served)), "a replica went back"
    assert max(served[-1] for served in by_partition) >= woken


def versions_served(house: House) -> dict[int, list[tuple[int, int]]]:
    """Epoch and number of the weights of each response, by partition in its order: there is one replica."""
    found = defaultdict(list)
    for record in read_topic(house.kafka, RESPONSES):
        response: RankingResponse = decode(TOPICS[RESPONSES], record.value, record.header(CONTENT_TYPE))
        if response.model is not None:
            found[record.partition].append((response.model.epoch, response.model.number))
    return found
