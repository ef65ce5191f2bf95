"""The learner as a process of its own, on a real broker; and how it resumes."""

import random
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest

from router_bandit.budget import BudgetOptions
from router_bandit.plans import Plan
from router_bandit.policy import Exploration
from router_bandit.value_model import ValueOptions, VWValueModel
from streams.kafka.connection import Kafka, watermarks
from streams.kafka.scan import read_topic
from streams.local.stack import LocalStack, local_stack
from streams.wire.codec import decode, encode
from streams.wire.messages import Decision, Reward, RouterModel
from streams.wire.topics import DEAD_LETTERS, REWARDS, ROUTER_MODEL, TOPICS
from streams.workers.rank.routing import Router
from streams.workers.router.learn import Knowledge, newest_models, resume
from tests.streams.worker_process import worker_process

VALUES = ValueOptions(learning_rate=0.1)
BUDGET = BudgetOptions(budget_ms=4.0, window=50, initial_price=0.01)
RECIPE = """
base = "default"
[routing]
publish_s = 0.1
[routing.values]
learning_rate = 0.1
[routing.budget]
budget_ms = 4.0
window = 50
initial_price = 0.01
"""
PLANS = ["light", "heavy"]
PRICE = BUDGET.initial_price


def reward(
    name: str, log: str, plan: str, earned: float, *, price: float = PRICE, forced: bool = False, late: bool = False
) -> Reward:
    decision = Decision(
        response_id=name,
        user=f"user of {name}",
        event_ms=1_700_000_000_000,
        plan=plan,
        probabilities=dict.fromkeys(PLANS, 0.5),
        values=dict.fromkeys(PLANS, 0.0),
        costs={"light": 2.0, "heavy": 10.0},
        measured_ms={"light": 2.0, "heavy": 10.0}[plan],
        price=price,
        context={"log": log},
        router_number=1,
        forced=forced,
    )
    return Reward(reward_id=name, decision=decision, earned=earned, outcomes=1, late=late)


def rewards(count: int, prefix: str) -> list[Reward]:
    """Long logs earn with the heavy plan, short ones with the light one. The mean cost is 6 ms."""
    rng = random.Random(prefix)
    made = []
    for i in range(count):
        log, plan = rng.choice(["long", "short"]), rng.choice(PLANS)
        made.append(reward(f"{prefix}{i}", log, plan, float((log == "long") == (plan == "heavy"))))
    return made


@pytest.fixture
def kafka(stack: LocalStack) -> Kafka:
    return Kafka(stack.bootstrap, {})


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("stack")) as stack:
        Kafka(stack.bootstrap, {}).create_topics()
        yield stack


def learner(stack: LocalStack, folder: Path) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    return worker_process("learn", stack, folder, RECIPE)


def send(kafka: Kafka, messages: Sequence[Reward | bytes]) -> None:
    producer = kafka.producer()
    for message in messages:
        value = message if isinstance(message, bytes) else encode(TOPICS[REWARDS], message)
        producer.produce(REWARDS, value, message.decision.user if isinstance(message, Reward) else "nobody")
    assert producer.flush(10) == 0


def ends(kafka: Kafka) -> dict[str, int]:
    reader = kafka.reader()
    found = {str(p): watermarks(reader, REWARDS, p)[1] for p in kafka.partitions(REWARDS)}
    reader.close()
    return {partition: end for partition, end in found.items() if end}


def until_all_is_learned(kafka: Kafka, timeout_s: float = 90.0) -> RouterModel:
    deadline = time.monotonic() + timeout_s
    wanted = ends(kafka)
    while time.monotonic() < deadline:
        models = newest_models(kafka)
        if models and models[0].offsets == wanted:
            return models[0]
        time.sleep(0.1)
    raise AssertionError(f"not all of {wanted} was learned: {[m.offsets for m in newest_models(kafka)]}")


@pytest.mark.e2e
def test_rewards_become_a_model_that_routes(stack: LocalStack, kafka: Kafka, tmp_path: Path) -> None:
    good = rewards(600, "g")
    others: list[Reward | bytes] = [
        *good[:50],  # second deliveries
        *(reward(f"f{i}", "long", "light", 1.0, forced=True) for i in range(20)),
        *(reward(f"l{i}", "long", "light", 1.0, late=True) for i in range(20)),
        msgspec.structs.replace(good[0], reward_id="bad", decision=msgspec.structs.replace(good[0].decision, plan="x")),
        b"{",
    ]
    with learner(stack, tmp_path):
        send(kafka, [*good, *others])
        message = until_all_is_learned(kafka)
    assert message.learned == 600
    assert message.price > PRICE  # 6 ms a request were spent, 4 are allowed
    assert message.spent_ms == pytest.approx(6.0, abs=2.5)
    assert message.budget_ms == 4.0
    assert message.price_history[0] == PRICE

    router = Router(
        [Plan.single(plan) for plan in PLANS],
        exploration=Exploration(),
        values=VALUES,
        initial_price=1.0,
        seed=0,
    )
    assert router.take(message)
    assert (router.number, router.price) == (message.number, message.price)
    model = VWValueModel.from_bytes(message.weights, VALUES, read_only=True)
    for log, better, worse in [("long", "heavy", "light"), ("short", "light", "heavy")]:
        values = model.predict({"log": log}, PLANS)
        assert values[better] > values[worse] + 0.5

    letters = list(read_topic(kafka, DEAD_LETTERS))
    assert sorted((letter.header("reason") or "")[:12] for letter in letters) == ["not a Reward", "the plan mus"]


@pytest.mark.e2e
def test_kill_and_restart_learn_everything_once(stack: LocalStack, kafka: Kafka, tmp_path: Path) -> None:
    sent = rewards(900, "k")
    for start in (0, 300, 600):
        with learner(stack, tmp_path) as process:
            number = newest_models(kafka)[0].number if start else 0
            send(kafka, sent[start : start + 150])
            deadline = time.monotonic() + 60
            while not (models := newest_models(kafka)) or models[0].number <= number:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            send(kafka, sent[max(0, start - 50) : start + 300])  # much of it for the second time
            process.send_signal(signal.SIGKILL)
            process.wait()
    with learner(stack, tmp_path):
        send(kafka, rewards(1, "last"))
        message = until_all_is_learned(kafka)
    assert message.learned == 901
    numbers = [decode(TOPICS[ROUTER_MODEL], record.value).number for record in read_topic(kafka, ROUTER_MODEL)]
    assert numbers == list(range(1, len(numbers) + 1))


def knowledge(learned: int) -> Knowledge:
    made = resume([], VALUES, BUDGET)
    for each in rewards(learned, "r"):
        made.model.learn({"log": "long"}, PLANS, each.decision.plan, 0.5, each.earned)
        made.prices.observe(each.decision.measured_ms, made.prices.price)
    made.number, made.learned, made.offsets = learned, learned, {0: learned, 3: 2 * learned}
    return made


def test_knowledge_comes_back_as_it_was_published() -> None:
    first = knowledge(120)
    again = resume([first.to_message()], VALUES, BUDGET)
    assert (again.number, again.learned, again.offsets) == (120, 120, {0: 120, 3: 240})
    assert again.to_message() == msgspec.structs.replace(
        first.to_message(), weights=again.to_message().weights, checksum=again.to_message().checksum
    )
    assert again.prices.spent_ms > 0
    assert again.model.predict({"log": "long"}, PLANS) == first.model.predict({"log": "long"}, PLANS)


def test_a_damaged_record_is_passed_over_for_an_older_one() -> None:
    older, newer = knowledge(60).to_message(), knowledge(120).to_message()
    damaged = msgspec.structs.replace(newer, weights=newer.weights[:-1] + bytes([newer.weights[-1] ^ 1]))
    again = resume([damaged, older], VALUES, BUDGET)
    assert (again.learned, again.offsets) == (60, {0: 60, 3: 120})
    assert again.number == 120  # the next record is above all that was ever published


def test_other_options_begin_a_new_model_at_the_old_price() -> None:
    old = knowledge(120).to_message()
    again = resume([old], ValueOptions(value_scale=7.0), BUDGET)
    assert (again.learned, again.offsets, again.number) == (0, {}, 120)
    assert again.prices.price == old.price != PRICE
    assert again.model.predict({"log": "long"}, PLANS) == dict.fromkeys(PLANS, 0.0)
