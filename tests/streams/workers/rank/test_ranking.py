"""Ordering: by value, and by draws where new ads get a fair start. With a real Redis, and a model that has counted."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from redis import Redis

from feature_store.config import LogConfig
from feature_store.log import UserLog
from ranker.config import ITEM, LearnerConfig
from ranker.engine import Engine
from ranker.learning.learner import Learner
from ranker.updates.record import Update, UpdateHeader
from router_bandit.plans import Plan
from router_bandit.policy import Exploration
from router_bandit.value_model import ValueOptions
from streams.local.redis import redis_server
from streams.runtime.redis_client import connect
from streams.wire.messages import Candidate, RankingRequest
from streams.wire.record import Record
from streams.wire.topics import REQUESTS, RESPONSES
from streams.workers.rank.exploration import drawn_probabilities, normal_draws
from streams.workers.rank.intake import Work
from streams.workers.rank.ranking import Answer, Ranking
from streams.workers.rank.routing import Router
from tests.ranker.samples import COMPRESS, EVENT_MS, at, labelled, request, tiny_model

MODEL = replace(tiny_model(), statistics=((ITEM,),))
OLD, NEW = [f"old{i}" for i in range(10)], [f"new{i}" for i in range(10)]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    server = redis_server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield connect(server.address)
    server.stop()


@pytest.fixture(scope="module")
def engine() -> Engine:
    """An engine that knows ten ads well, each shown two hundred times."""
    learner, engine = Learner(MODEL, LearnerConfig(), COMPRESS), Engine(MODEL, COMPRESS)
    rng = np.random.default_rng(0)
    for number in range(200):
        learner.learn([labelled(number, request(items=OLD), (rng.random(10) < 0.3).astype(np.float32).tolist())])
    header = UpdateHeader(epoch=1, number=1, previous=0, digest=MODEL.digest, trainer="t", reset=True)
    engine.apply(Update(header, learner.take_changes()), at(1))
    return engine


def ranking(engine: Engine, redis: Redis, thompson_clicks: float | None) -> Ranking:
    plans = (Plan.cascade("light", "heavy", keep=15),)
    router = Router(plans, exploration=Exploration(), values=ValueOptions(bits=10), initial_price=0.001, seed=0)
    return Ranking(
        engine=engine,
        user_log=UserLog(redis, LogConfig()),
        router=router,
        value="bid*pctr",
        thompson_clicks=thompson_clicks,
        log_length=8,
        replica="test",
    )


def work(number: int) -> Work:
    sent = request(items=[*OLD, *NEW])
    both = zip(sent.items, sent.item_features, strict=True)
    candidates = [Candidate(item=item, features=dict(features)) for item, features in both]  # type: ignore[arg-type]
    asked = RankingRequest(
        request_id=f"r{number}",
        user="u",
        candidates=candidates,
        features=dict(sent.features),  # type: ignore[arg-type]
        surface=sent.surface,
    )
    record = Record(REQUESTS, 0, number, EVENT_MS, b"u", b"", ())
    return Work(record, asked, EVENT_MS, 2**62, RESPONSES, None)


def answers(of: Ranking, count: int) -> list[Answer]:
    return [answer for number in range(count) for answer in of.answer([work(number)])]


def test_an_engine_says_how_often_items_were_shown(engine: Engine) -> None:
    [scores] = engine.score("light", [request(items=[*OLD, *NEW])])
    assert scores.shown is not None
    assert scores.shown[:10] == pytest.approx(200, rel=0.1)
    assert not scores.shown[10:].any()


def test_without_draws_the_order_is_by_value_and_says_so(engine: Engine, redis: Redis) -> None:
    for answer in answers(ranking(engine, redis, None), 3):
        values = [item.value for item in answer.response.items[:15]]
        assert values == sorted(values, reverse=True)  # type: ignore[type-var]
        assert all(item.drawn is None for item in answer.response.items)


def test_new_ads_get_their_turn_and_the_prediction_stays(engine: Engine, redis: Redis) -> None:
    """Each new ad comes first at times; what is sent as pctr is the prediction, and the draw is in the response and in
    the log, where it can be made again."""
    found = answers(ranking(engine, redis, 1.0), 200)
    assert set(NEW) <= {answer.response.items[0].item for answer in found}
    [scores] = engine.score("heavy", [request(items=[*OLD, *NEW])])
    assert scores.shown is not None
    places = {item: place for place, item in enumerate([*OLD, *NEW])}
    for answer in found[:20]:
        items = answer.response.items
        assert answer.served is not None
        assert {i.item: i.drawn for i in answer.served.items} == {i.item: i.drawn for i in items}
        normal = normal_draws(answer.response.response_id, 20)
        drawn = drawn_probabilities(scores.pctr, scores.shown, normal, 1.0)
        by_second_tier = [(item, places[item.item]) for item in items[:15]]
        assert [item.drawn for item, _ in by_second_tier] == pytest.approx(
            [drawn[k] for _, k in by_second_tier], rel=1e-4
        )
        assert [item.pctr for item, _ in by_second_tier] == pytest.approx(
            [scores.pctr[k] for _, k in by_second_tier], rel=1e-4
        )
        order = [item.drawn or 0.0 for item, _ in by_second_tier]
        assert order == sorted(order, reverse=True)
