"""The lists of rights, held against the workers; tests/e2e/test_secure.py runs the house on them."""

import json
from importlib import import_module
from inspect import signature

import pytest
from click.testing import CliRunner

from streams.cli import WORKERS, cli
from streams.kafka.connection import Kafka
from streams.local.health import HEALTH_TOPIC
from streams.operations.access import HEALTH, ROLES, kafka_rules
from streams.wire.topics import DEAD_LETTERS, READER_GROUP, ROUTER_MODEL, TOPICS, UPDATES


@pytest.mark.parametrize("worker", WORKERS)
def test_each_worker_may_join_its_own_group_and_no_other(worker: str) -> None:
    assert ROLES[worker].groups == (import_module(WORKERS[worker]).GROUP,)


def test_the_names_are_those_that_the_clients_use() -> None:
    assert HEALTH_TOPIC.name == HEALTH
    assert signature(Kafka.reader).parameters["group"].default == READER_GROUP


def test_only_their_owners_write_models() -> None:
    for topic, owner in ((UPDATES, "train"), (ROUTER_MODEL, "learn")):
        assert {role.name for role in ROLES.values() if topic in role.writes} == {owner, "operator"}


def test_every_topic_has_a_reader_and_a_writer() -> None:
    """The operator reads all, and is the one reader of dead letters and of the health check's topic."""
    roles = [role for role in ROLES.values() if role.name != "operator"]
    assert {topic for role in roles for topic in role.writes} == TOPICS.keys()
    assert {topic for role in roles for topic in role.reads} - {HEALTH} == TOPICS.keys() - {DEAD_LETTERS}
    assert {DEAD_LETTERS, HEALTH} <= set(ROLES["operator"].reads)


def test_the_commands_print_the_lists() -> None:
    done = CliRunner().invoke(cli, ["access", "kafka", "--principal-prefix", "User:CN=", "--json"])
    rules = json.loads(done.output)
    assert len(rules) == len(kafka_rules("User:CN=", "ranking.responses"))
    assert {
        "principal": "User:CN=rank",
        "operation": "WRITE",
        "kind": "TOPIC",
        "name": "ranking.responses",
        "pattern": "PREFIXED",
    } in rules
    lines = CliRunner().invoke(cli, ["access", "redis"]).output.splitlines()
    assert "ACL SETUSER tiderank-rank reset on >PASSWORD %R~log:* +ping +client|setinfo +fcall_ro +getrange" in lines
    old = CliRunner().invoke(cli, ["access", "redis", "--before-7.2"]).output
    assert "setinfo" not in old
    assert "allkeys" not in old
    assert "~*" not in old
