"""What a replay asks a running house before it sends the log: which recipe runs there, and what it has learned already.

Read from topics and Redis; nothing is changed.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from redis import Redis

from feature_store.config import WINDOWS
from feature_store.keys import log_key
from ranker.updates.record import MalformedRecord, peek_header
from streams.client import Candidate, RankingClient, RankingRequest
from streams.config.builtin import RECIPES
from streams.config.recipe import Recipe
from streams.config.settings import Settings
from streams.datasets.logs.traffic import TrafficLog
from streams.errors import StartError
from streams.kafka.connection import Kafka, watermarks
from streams.kafka.update_reader import UpdateReader
from streams.runtime.redis_client import PATIENT_S, check, connect
from streams.wire.topics import EXAMPLES, UPDATES

NEWEST = 64
"""Records of model.updates that are read to see whose models are published."""
ASKED = 10_000
"""Users that Redis is asked about at once."""
_ADVICE = (
    "Start them with the recipe that is judged, or name theirs here by --recipe (`tiderank recipe diff` compares two)"
)


@dataclass(frozen=True, slots=True)
class Known:
    """What a house had when a replay came to it."""

    users: int
    """Users of the log that have events in Redis."""
    asked: int
    """Users that the log has."""
    examples: int
    """Training examples that were made there before."""

    def __bool__(self) -> bool:
        return bool(self.users or self.examples)

    def __str__(self) -> str:
        return (
            f"{self.users:,} of the log's {self.asked:,} users have events in Redis, and {self.examples:,} training "
            "examples were made before"
        )


def check_house(settings: Settings, log: TrafficLog) -> None:
    """Raises StartError where workers run with another recipe than that of the settings, naming what differs; and where
    the broker or Redis does not answer. Says nothing of workers that have not begun."""
    kafka, recipe = settings.kafka, settings.recipe
    kafka.check()
    redis = connect(settings.redis_url, timeout_s=PATIENT_S)
    check(redis, settings.redis_url)
    if wrong := [*_model(kafka, recipe, log), *_windows(redis, recipe)]:
        raise StartError(
            f"the workers run with another recipe than {recipe.name}, by which they would be judged: {'; '.join(wrong)}"
            f". {_ADVICE}"
        )


def check_served(client: RankingClient, recipe: Recipe, log: TrafficLog, *, prefix: str, event_ms: int) -> None:
    """Raises StartError where requests are answered by another model than the recipe's; sends one."""
    probe = RankingRequest(
        request_id=f"{prefix}-model",
        user=f"{prefix}-user",
        candidates=[Candidate(item=f"{prefix}-item")],
        event_ms=event_ms,
    )
    served = client.rank(probe, timeout_s=PATIENT_S, deadline_ms=round(1000 * PATIENT_S)).model
    if served is not None and served.digest != recipe.model.digest:
        raise StartError(
            f"requests are answered by another model than that of recipe {recipe.name}: "
            f"{_other(served.digest, recipe, log)}. {_ADVICE}"
        )


def known_before(settings: Settings, users: Sequence[str]) -> Known:
    """Returns what the house has of the log's users, and of anyone; a new house has nothing."""
    redis = connect(settings.redis_url, timeout_s=PATIENT_S)
    found = 0
    for first in range(0, len(users), ASKED):
        with redis.pipeline(transaction=False) as pipe:
            for user in users[first : first + ASKED]:
                pipe.exists(log_key(user))
            found += sum(pipe.execute())
    kafka = settings.kafka
    with closing(kafka.reader()) as reader:
        examples = sum(watermarks(reader, EXAMPLES, partition)[1] for partition in kafka.partitions(EXAMPLES))
    return Known(found, len(users), examples)


def refuse_known(known: Known) -> None:
    """Raises StartError unless the house is new."""
    if known:
        raise StartError(
            f"this house has learned before: {known}. Its model may know the labels that it would be judged by. Replay "
            "with --up, or into a house that begins anew (`tiderank up --data NEW_FOLDER --workers`); --again takes it "
            "as it is, and says so above the figures"
        )


def _model(kafka: Kafka, recipe: Recipe, log: TrafficLog) -> Iterator[str]:
    published = _published(kafka)
    if published and recipe.model.digest not in published:
        yield f"the trainer publishes {_other(published[-1], recipe, log)}"


def _published(kafka: Kafka) -> list[str]:
    """Digests of the models that the newest records of model.updates are of, the last one last."""
    kafka.partitions(UPDATES)  # that the topic is there, or why not
    with closing(kafka.reader()) as probe:
        first, end = watermarks(probe, UPDATES, 0)
    found = []
    with closing(UpdateReader(kafka, start=max(first, end - NEWEST))) as reader:
        while not reader.at_end and reader.next < end:
            for record in reader.poll(NEWEST, timeout_s=0.2):
                try:
                    found.append(peek_header(record.value or b"").digest)
                except MalformedRecord:
                    continue  # the audit counts those
    return found


def _other(digest: str, recipe: Recipe, log: TrafficLog) -> str:
    """Says which model a digest is of, and in what it differs from the recipe's, where it is one that we know."""
    said = f"model {digest}"
    known = {f"recipe {name}'s": make().model for name, make in RECIPES.items()}
    for whose, model in {**known, "that of the log's own recipe": log.model}.items():
        if model.digest == digest:
            said += f", {whose}"
            differ = [f.name for f in fields(model) if getattr(model, f.name) != getattr(recipe.model, f.name)]
            names = ", ".join(f"model.{name}" for name in differ)
            return f"{said}, and {recipe.name} has {recipe.model.digest} (they differ in {names})"
    return f"{said}, and {recipe.name} has {recipe.model.digest}"


def _windows(redis: Redis, recipe: Recipe) -> Iterator[str]:
    stored = cast("bytes | None", redis.get(WINDOWS))
    if stored is None:
        return
    used: dict[str, Any] = json.loads(stored)
    own = asdict(recipe.join)
    for name in sorted(used.keys() | own.keys()):
        if used.get(name) != own.get(name):
            yield f"ingest joins by {name} = {used.get(name, '–')}, and {recipe.name} has {own.get(name, '–')}"
