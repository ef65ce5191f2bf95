"""Who needs which rights, and no more: of each worker, of the ad system, of the operator's tools.

    tiderank access kafka             # the rules, one a line; --create makes them
    tiderank access redis             # the users, as lines for redis-cli or an ACL file

The end-to-end test of a protected house runs on these very lists.
"""

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Literal

import click

from streams.options import json_option
from streams.wire.topics import (
    CONVERSIONS,
    DEAD_LETTERS,
    DECISIONS,
    EXAMPLES,
    GROUPS,
    IMPRESSIONS,
    OUTCOMES,
    READER_GROUP,
    REQUESTS,
    RESPONSES,
    REWARDS,
    ROUTER_MODEL,
    SERVED,
    TOPICS,
    UPDATES,
)

if TYPE_CHECKING:
    from confluent_kafka.admin import AclBinding  # type: ignore[attr-defined]

    from streams.kafka.connection import Kafka

PREFIX = "tiderank-"
"""Prefix of our users' and groups' names."""
HEALTH = "tiderank.health"
_ALL = tuple(TOPICS)

# What redis-py says on a new connection, and what a worker asks before it starts.
_SET_INFO = "+client|setinfo"
_CONNECT = ("+ping", _SET_INFO)
_TRANSACTION = ("+multi", "+exec", "+discard")
# The functions run with the rights of who calls them.
_READ_LOG = ("+fcall_ro", "+getrange")
_CHANGE_LOG = ("+fcall", "+getrange", "+set", "+setrange", "+expire")
_CHANGE_JOIN = ("+hget", "+hset", "+hdel", "+hgetall", "+zadd", "+zrem", "+zrange", "+zscore")
_LOAD = ("+function|load",)
_REWARDS = (
    *("+fcall", "+expire", "+pexpire", "+pttl", "+hget", "+hset", "+hsetnx", "+hmget", "+hgetall", "+hincrby", "+hdel"),
    *("+hincrbyfloat", "+zadd", "+zrem", "+zrange", "+zrangebyscore", "+zcard"),
)
_INGEST_KEYS = ("~log:*", "~join:*", "~due:*", "~ingest:*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """What one kind of process may do. Who may read or write a topic may also be told of it."""

    name: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    replies: bool = False
    """Writes every topic that begins with the recipe's `reply_prefix`."""
    groups: tuple[str, ...] = ()
    """Groups that it joins and commits under. A name that ends in * stands for all that begin so."""
    administers: tuple[str, ...] = ()
    """Topics that it makes, and whose settings it reads."""
    redis: tuple[str, ...] = ()
    """Redis rules that give its rights, after those that take everything away; none: it does not use Redis."""


ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role(
            name="rank",
            reads=(REQUESTS, UPDATES, ROUTER_MODEL),
            writes=(RESPONSES, SERVED, DECISIONS, DEAD_LETTERS),
            replies=True,
            groups=(GROUPS["rank"],),
            redis=("%R~log:*", *_CONNECT, *_READ_LOG),
        ),
        Role(
            name="ingest",
            reads=(SERVED, IMPRESSIONS, CONVERSIONS),
            writes=(EXAMPLES, OUTCOMES, DEAD_LETTERS),
            groups=(GROUPS["ingest"],),
            redis=(*_INGEST_KEYS, *_CONNECT, "+info", *_TRANSACTION, *_CHANGE_LOG, *_CHANGE_JOIN, *_LOAD),
        ),
        Role(
            name="train",
            reads=(EXAMPLES, UPDATES),
            writes=(UPDATES, DEAD_LETTERS),
            groups=(GROUPS["train"],),
            redis=("%R~log:*", *_CONNECT, *_READ_LOG),
        ),
        Role(
            name="rewards",
            reads=(DECISIONS, OUTCOMES, REWARDS),
            writes=(REWARDS, DEAD_LETTERS),
            groups=(GROUPS["rewards"],),
            redis=("~rw:*", "%R~ingest:clocks", *_CONNECT, "+info", *_TRANSACTION, *_REWARDS, *_LOAD),
        ),
        Role(
            name="learn",
            reads=(REWARDS, ROUTER_MODEL),
            writes=(ROUTER_MODEL, DEAD_LETTERS),
            groups=(GROUPS["learn"],),
        ),
        # The ad system, as streams.client does it. A client in another language that joins a group needs that one too.
        Role(name="sender", reads=(RESPONSES,), writes=(REQUESTS, IMPRESSIONS, CONVERSIONS)),
        # The tools: topics, doctor, dlq, audit, updates, rollback, user.
        Role(
            name="operator",
            reads=(*_ALL, HEALTH),
            writes=(*_ALL, HEALTH),
            groups=(PREFIX + "*",),
            administers=(*_ALL, HEALTH),
            redis=(
                *_INGEST_KEYS,
                *("~rw:*", "~tiderank:health:*", *_CONNECT, *_TRANSACTION, *_CHANGE_LOG, *_READ_LOG, *_CHANGE_JOIN),
                *(
                    *_REWARDS,
                    *_LOAD,
                    "+del",
                    "+hkeys",
                    "+hlen",
                    "+get",
                    "+exists",
                    "+scan",
                    "+zscan",
                    "+info",
                    "+config|get",
                ),
            ),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One access rule of Kafka."""

    principal: str
    operation: Literal["READ", "WRITE", "DESCRIBE", "CREATE", "DESCRIBE_CONFIGS"]
    kind: Literal["TOPIC", "GROUP"]
    name: str
    pattern: Literal["LITERAL", "PREFIXED"] = "LITERAL"


def kafka_rules(principal_prefix: str, reply_prefix: str) -> list[Rule]:
    """All that the roles need; the principal of each is the prefix and its name."""
    return [rule for role in ROLES.values() for rule in _rules(role, principal_prefix + role.name, reply_prefix)]


def _rules(role: Role, principal: str, reply_prefix: str) -> Iterator[Rule]:
    for topic in role.reads:
        yield Rule(principal, "READ", "TOPIC", topic)
    for topic in role.writes:
        yield Rule(principal, "WRITE", "TOPIC", topic)
    if role.replies:
        yield Rule(principal, "WRITE", "TOPIC", reply_prefix, "PREFIXED")
    for topic in role.administers:
        yield Rule(principal, "CREATE", "TOPIC", topic)
        yield Rule(principal, "DESCRIBE_CONFIGS", "TOPIC", topic)
    for group in role.groups:
        yield Rule(principal, "READ", "GROUP", group.rstrip("*"), "PREFIXED" if group.endswith("*") else "LITERAL")
    yield Rule(principal, "DESCRIBE", "GROUP", READER_GROUP)


def redis_user(role: Role, password: str, *, set_info: bool = True) -> list[str]:
    """The arguments of ACL SETUSER after the user's name: everything is taken away, then the role's rights given.

    set_info: the server knows CLIENT SETINFO; those before 7.2 do not, and refuse a rule that names it.
    """
    return ["reset", "on", f">{password}", *(rule for rule in role.redis if set_info or rule != _SET_INFO)]


@click.group("access")
def access_command() -> None:
    """The rights that each worker needs in Kafka and Redis, and no more."""


@access_command.command("kafka")
@click.option(
    "--principal-prefix",
    default=f"User:{PREFIX}",
    show_default=True,
    metavar="PREFIX",
    help="Before the role's name; with TLS certificates `User:CN=`.",
)
@click.option(
    "--reply-prefix",
    default=RESPONSES,
    show_default=True,
    metavar="PREFIX",
    help="`ranking.reply_prefix` of the recipe: rank may write the topics that begin so.",
)
@click.option("--create", is_flag=True, help="Make the rules, at TIDERANK_BOOTSTRAP.")
@json_option
def kafka_command(principal_prefix: str, reply_prefix: str, create: bool, as_json: bool) -> None:
    """List the access rules, or make them. Rules that are there are left alone."""
    rules = kafka_rules(principal_prefix, reply_prefix)
    if create:
        from streams.kafka.connection import Kafka

        create_rules(Kafka.from_environment(), rules)
    if as_json:
        click.echo(json.dumps([dict(zip(Rule.__dataclass_fields__, astuple(rule), strict=True)) for rule in rules]))
        return
    for rule in rules:
        click.echo(f"{rule.principal:<26}{rule.operation:<17}{rule.kind:<6}{rule.pattern:<9}{rule.name}")
    if create:
        click.echo(f"{len(rules)} rules are there")


@access_command.command("redis")
@click.option("--user-prefix", default=PREFIX, show_default=True, metavar="PREFIX", help="Before the role's name.")
@click.option("--before-7.2", "old", is_flag=True, help="For a server that does not know CLIENT SETINFO yet.")
def redis_command(user_prefix: str, old: bool) -> None:
    """List the users as redis-cli takes them: put a password in place of PASSWORD. learn and senders need none."""
    for role in ROLES.values():
        if role.redis:
            rules = redis_user(role, "PASSWORD", set_info=not old)
            click.echo(" ".join(["ACL", "SETUSER", user_prefix + role.name, *rules]))


def create_rules(kafka: "Kafka", rules: list[Rule]) -> None:
    """Makes the rules. Raises StartError where the broker cannot be reached, KafkaException where it does not make
    one."""
    kafka.check()
    admin = kafka.admin()  # to be held until the answers are there
    for future in admin.create_acls([_binding(rule) for rule in rules]).values():
        future.result(timeout=30.0)


def _binding(rule: Rule) -> "AclBinding":
    from confluent_kafka.admin import (  # type: ignore[attr-defined]
        AclBinding,
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    return AclBinding(
        ResourceType[rule.kind],
        rule.name,
        ResourcePatternType[rule.pattern],
        rule.principal,
        "*",
        AclOperation[rule.operation],
        AclPermissionType.ALLOW,
    )
