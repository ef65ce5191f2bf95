"""Requests that a graph takes, and engines whose weights have learned."""

from dataclasses import replace
from functools import cache

import numpy as np

from ranker.compiled.keys import SEARCHED
from ranker.engine import Engine
from ranker.inputs.keymap import WIDTH
from ranker.inputs.requests import ScoringRequest
from ranker.updates.record import Update
from tests.ranker.samples import COMPRESS, at, request, tiny_learner, tiny_model, traffic, update_of

CONFIG = tiny_model()


def plain_request(candidates: int, events: int) -> ScoringRequest:
    """One value in each slot; of the log's events every other is a click."""
    items, log = [f"i{n}" for n in range(candidates)], [f"i{n % 5}" for n in range(events)]
    scoring = replace(request("u1", items, log), features={"interests": "x", "age": 30.0})
    scoring.log["action"][::2] = 2
    return scoring


@cache
def updates(count: int) -> list[Update]:
    learner, made = tiny_learner(CONFIG), []
    for number, examples in enumerate(traffic(0, count), 1):
        learner.learn(examples)
        made.append(update_of(learner, number))
    return made


def engine_after(count: int = 5) -> Engine:
    """An engine that has applied the first `count` updates of ten."""
    engine = Engine(CONFIG, COMPRESS)
    for number, update in enumerate(updates(10)[:count], 1):
        engine.apply(update, at(number))
    return engine


def crowd(*engines: Engine, home_of: np.uint64) -> None:
    """Have the items' map hold as many keys with this key's home as it takes to pass all buckets that a graph looks at,
    with rows that nobody has."""
    for engine in engines:
        key_map = engine.image.tables.key_maps["items"]
        keys = np.arange(1, 2_000_000, dtype=np.uint64)
        keys = keys[key_map._home(keys) == key_map._home(np.array([home_of]))][: SEARCHED * WIDTH + 1]
        rows = np.flatnonzero(~key_map.has_key(np.arange(key_map.num_rows)))[: len(keys)]
        key_map.change(keys, rows, np.empty(0, np.uint64))
