"""The observer on a real broker and a real Redis: what is put on the topics is what it counts."""

import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer

from feature_store import ActionFact, JoinConfig, Joiner, LogConfig
from ranker.updates.changes import Changes
from ranker.updates.record import Open, Update, UpdateHeader, encode_open, encode_update
from streams.demo.observer import LogSize, Observer
from streams.kafka.connection import Kafka
from streams.local.stack import LocalStack, local_stack
from streams.runtime.redis_client import connect
from streams.wire.codec import encode
from streams.wire.messages import Decision, LogRef, ModelVersion, RankingResponse, RouterModel, Timings, TrainingExample
from streams.wire.topics import DEAD_LETTERS, DECISIONS, EXAMPLES, RESPONSES, ROUTER_MODEL, TOPICS, UPDATES

pytestmark = pytest.mark.e2e
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("stack"), broker="memory") as stack:
        Kafka(stack.bootstrap, {}).create_topics()
        yield stack


class Topics:
    """Puts records on topics, as the workers do."""

    def __init__(self, kafka: Kafka) -> None:
        self._producer: Producer = kafka.producer()

    def put(self, topic: str, value: bytes, *, partition: int = 0) -> None:
        self._producer.produce(topic, value, partition=partition)
        assert self._producer.flush(PATIENCE_S) == 0

    def respond(self, number: int, *, status: str = "ok", reason: str | None = None) -> None:
        response = RankingResponse(
            response_id=f"p{number}",
            request_id="r",
            status=status,  # type: ignore[arg-type]
            reason=reason,
            model=ModelVersion(epoch=1, number=number),
            timings=Timings(decode=1.0, fetch=0.5, route=0.25, score=4.0) if status == "ok" else None,
            replica="a",
        )
        self.put(RESPONSES, encode(TOPICS[RESPONSES], response))

    def update(self, number: int, offsets: dict[str, int], grades: dict[str, float]) -> None:
        header = UpdateHeader(
            epoch=1,
            number=number,
            previous=number - 1,
            digest="d",
            trainer="t",
            offsets=offsets,
            created_ms=time.time_ns() // 1_000_000,
            grades=grades,
        )
        for record in encode_update(Update(header, Changes())):
            self.put(UPDATES, record)

    def example(self, partition: int) -> None:
        example = TrainingExample(
            example_id="e",
            kind="click",
            label=1.0,
            value=0.0,
            response_id="p1",
            user="u",
            item="i",
            position=0,
            surface="feed",
            event_ms=0,
            log=LogRef(),
            features={},
            context={},
            item_features={},
            tier="light",
            pctr=0.1,
            pcvr=0.1,
            model=ModelVersion(epoch=1, number=1),
            trigger_ms=time.time_ns() // 1_000_000 - 20,
        )
        self.put(EXAMPLES, encode(TOPICS[EXAMPLES], example), partition=partition)


def await_that(observer: Observer, seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not seen():
        assert time.monotonic() < deadline, observer.part
        observer.poll()
        time.sleep(0.02)


def decision(plan: str, cost: float) -> Decision:
    return Decision(
        response_id="p",
        user="u",
        event_ms=0,
        plan=plan,
        probabilities={"light": 0.5, "heavy": 0.5},
        values={},
        costs={},
        measured_ms=cost,
        price=0.1,
        context={},
        router_number=0,
    )


def test_what_is_on_the_topics_is_counted(stack: LocalStack) -> None:
    kafka = Kafka(stack.bootstrap, {})
    observer, topics = Observer(kafka, connect(stack.redis_url)), Topics(kafka)
    observer.part.since_ms -= 1_000  # the example's event came a moment before
    topics.put(UPDATES, encode_open(Open(epoch=1, digest="d", trainer="t", created_ms=0)))
    topics.update(1, {}, {})
    topics.respond(1)
    topics.example(partition=2)
    losses = {
        "click.count": 4.0,
        "click.positives": 1.0,
        "click.predicted": 1.0,
        "click.served": 1.5,
        "click.base": 2.0,
    }
    topics.update(2, {"2": 1}, losses | {"examples": 5.0, "learned": 5.0})
    topics.respond(2)
    topics.respond(2, status="fallback", reason="expired")
    for plan, cost in (("light", 2.0), ("light", 4.0), ("heavy", 9.0)):
        topics.put(DECISIONS, encode(TOPICS[DECISIONS], decision(plan, cost)))
    model = RouterModel(
        number=3, weights=b"", checksum="", price=0.25, budget_ms=5.0, spent_ms=4.0, learned=77, offsets={}
    )
    topics.put(ROUTER_MODEL, encode(TOPICS[ROUTER_MODEL], model))
    topics.put(DEAD_LETTERS, b"whatever it was")
    topics.put(RESPONSES, b"not a response")

    part = observer.part
    await_that(observer, lambda: part.dead_letters == 1 and observer.router is not None and part.plans.total() == 3)
    await_that(observer, lambda: part.responses.total() == 3 and len(part.updates) == 2)
    observer.finish()
    assert part.responses == {"ok": 2, "fallback": 1}
    assert part.fallbacks == {"expired": 1}
    assert list(part.server_ms) == [5.75, 5.75]
    assert part.mean_cost_ms == 5.0
    assert part.plan_ms == {"light": 6.0, "heavy": 9.0}
    assert (part.examples, observer.learned, observer.frozen_after) == (5, 5, None)
    assert part.updates_applied == 2
    assert [(step.count, step.served, step.frozen) for step in part.steps] == [(4.0, 1.5, None)]
    [click] = part.fresh
    assert click.cause == "click"
    assert click.join_ms >= 20
    assert observer.router is not None
    assert (observer.router.price, observer.router.learned, observer.missed) == (0.25, 77, 0)

    assert observer.begin_part() is part
    topics.update(3, {"2": 1}, losses | {"examples": 4.0, "learned": 9.0, "click.frozen": 1.6})
    await_that(observer, lambda: bool(observer.part.steps))
    assert (observer.frozen_after, observer.learned, observer.part.examples) == (5, 9, 4)
    observer.close()


def test_the_size_of_the_logs_is_what_redis_accounts_for(stack: LocalStack) -> None:
    redis = connect(stack.redis_url)
    observer = Observer(Kafka(stack.bootstrap, {}), redis)
    observer.measure_log()
    assert observer.log_size == LogSize(0, 0, 0)
    facts = [
        ActionFact(
            event_id=f"{user}-{n}",
            user=user,
            kind="search",
            role="log",
            item="x",
            impression_id=None,
            value=0.0,
            event_ms=1_700_000_000_000 + n,
            kafka_ms=1_700_000_000_000 + n,
            record=bytes(16),
        )
        for user, count in (("u1", 3), ("u2", 40))
        for n in range(count)
    ]
    Joiner(redis, LogConfig(), JoinConfig()).apply(facts, {})
    observer.measure_log()
    assert observer.log_size is not None
    assert (observer.log_size.users, observer.log_size.events) == (2, 43)
    assert 43 * 16 < observer.log_size.size_bytes < 10_000
    observer.close()


def test_a_redis_that_is_away_leaves_the_size_unknown(stack: LocalStack) -> None:
    observer = Observer(Kafka(stack.bootstrap, {}), connect("redis://127.0.0.1:1/0"))
    observer.measure_log()
    assert observer.log_size is None
    observer.close()
