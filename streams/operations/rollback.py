"""`tiderank rollback`: replicas and trainer back to an older snapshot, by hand."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from streams.config.settings import Settings, from_environment
from streams.errors import StartError, StreamError
from streams.options import instance_option, json_option, recipe_option

if TYPE_CHECKING:
    from confluent_kafka import Producer

    from ranker.snapshots.snapshot import Snapshot
    from ranker.updates.log import Position
    from streams.workers.train.update_writer import UpdateWriter

_SETTLE_S = 30.0


@click.command("rollback")
@click.option("--to", "to", metavar="NAME", required=True, help="A snapshot's name, or the start of it.")
@click.option("--relearn", is_flag=True, help="Learn again what was learned since. [default: it is left out]")
@recipe_option
@instance_option
@json_option
def rollback_command(to: str, relearn: bool, recipe: str | None, instance: str | None, as_json: bool) -> None:
    """Go back to the snapshot NAME (`tiderank snapshot ls` lists them).

    All replicas apply it within a moment, in place. Newer snapshots are void. A trainer that runs finds itself out of
    office and ends: have it started again (a restart policy does), and it goes on from here.
    """
    done = roll_back(from_environment(recipe=recipe, instance=instance), to, relearn=relearn)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"back at {done['to']}: epoch {done['epoch']} is open, replicas get it in {done['bytes']:,} bytes")
    click.echo(f"void: {', '.join(done['void']) or 'nothing, there was no newer snapshot'}")
    skipped = sum(end - start for start, end in done["quarantined"].values())
    click.echo(f"{skipped:,} examples learned since are left out" if skipped else "examples since are learned again")


def roll_back(settings: Settings, to: str, *, relearn: bool) -> dict[str, Any]:
    """What was done, as plain values. Raises StartError for a name that is none, StreamError if a trainer was first."""
    import torch

    from kernels.linear_compress import bind, choose_impl
    from ranker.engine import Engine
    from ranker.learning.learner import Learner
    from ranker.learning.rollback import go_back, void_after
    from ranker.learning.state import training_state
    from ranker.snapshots.snapshot import list_snapshots, write_snapshot
    from ranker.updates.log import TrainerLog
    from streams.kafka.outbox import Outbox
    from streams.kafka.update_reader import UpdateReader
    from streams.workers.train.update_writer import UpdateWriter, now_ms

    torch.set_num_threads(1)
    model, kafka = settings.recipe.model, settings.kafka
    kafka.check()
    snapshot = _named(list_snapshots(settings.snapshots, model.digest), to, settings.snapshots)
    position = snapshot.manifest.position
    compress = bind(choose_impl(torch.device("cpu")))
    learner = Learner(model, settings.recipe.training.learner, compress)
    image = Engine(model, compress).image
    with _whole(snapshot):
        go_back(snapshot, learner, image)
    trainer = f"rollback-{settings.instance}-{uuid.uuid4().hex[:12]}"
    trainer_log = TrainerLog(model.digest, trainer, position)
    producer = kafka.producer()
    outbox = Outbox(producer, signer=kafka.signer)
    writer = UpdateWriter(image, trainer_log, UpdateReader(kafka, start=position.offset), outbox, trainer)
    writer.open()
    void = void_after(settings.snapshots, model.digest, position)
    learner.mark_dirty(trainer_log.dirty)
    then = dict(snapshot.manifest.offsets)
    offsets = then if relearn else then | trainer_log.offsets
    quarantined = {p: (then.get(p, 0), end) for p, end in offsets.items() if end > then.get(p, 0)}
    size = writer.write(
        learner,
        offsets=offsets,
        watermark_ms=image.watermark_ms if relearn else trainer_log.watermark_ms,
        grades={},
        quarantined=quarantined,
    )
    image.position = _settled(writer, producer)
    write_snapshot(
        settings.snapshots,
        image,
        training_state(learner),
        digest=model.digest,
        created_ms=now_ms(),
        keep=settings.recipe.training.retention,
    )
    return {
        "to": snapshot.name,
        "epoch": writer.epoch,
        "bytes": size,
        "void": [s.name for s in void],
        "quarantined": quarantined,
    }


@contextmanager
def _whole(snapshot: "Snapshot") -> Iterator[None]:
    from ranker.snapshots.snapshot import SnapshotError

    try:
        yield
    except SnapshotError as error:
        raise StartError(f"{snapshot.name} cannot be gone back to: {error}") from error


def _settled(writer: "UpdateWriter", producer: "Producer") -> "Position":
    deadline = time.monotonic() + _SETTLE_S
    while (position := writer.settled_position()) is None:
        producer.poll(0.05)
        writer.follow(timeout_s=0.05)
        if time.monotonic() > deadline:
            raise StreamError(f"the update did not appear on the log in {_SETTLE_S:.0f} s: go back once more")
    return position


def _named(snapshots: "list[Snapshot]", to: str, root: str) -> "Snapshot":
    found = [s for s in snapshots if to and s.name.startswith(to)]
    if len(found) != 1:
        there = ", ".join(s.name for s in snapshots) or "none"
        raise StartError(
            f"--to must name one snapshot of this recipe's model under {root}, got {to!r}; there: {there}. Only "
            "the newest training.snapshots_kept stay: `tiderank snapshot restore` copies one to where it is kept"
        )
    return found[0]
