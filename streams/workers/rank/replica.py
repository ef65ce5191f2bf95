"""A replica of the weights: loads the newest image, follows model.updates, applies between micro-batches."""

import logging
import time

from ranker.engine import Engine
from ranker.snapshots.snapshot import SnapshotError, list_snapshots, load_image
from ranker.updates.image import NotApplicable
from ranker.updates.log import UpdateFollower
from ranker.updates.record import MAX_CLICKS
from streams.config.snapshots import shard_reader
from streams.kafka.connection import Kafka
from streams.kafka.update_reader import UpdateReader
from streams.runtime import metrics as metric
from streams.runtime.sparing import Sparing
from streams.wire.record import Record

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 2.0
GAP_S = 0.005
"""Between two micro-batches: a replica far behind must not hold the requests that wait, so it catches up in pieces."""


class Replica:
    """Keeps an engine's weights at the head of the log.

    Without an image it applies the log from its start, if that holds a whole model. On a fault (a gap, a damaged
    record) it goes on serving its last good version and looks for a newer image until there is one.
    """

    def __init__(self, engine: Engine, kafka: Kafka, snapshots: str) -> None:
        self._engine = engine
        self._snapshots = snapshots
        self._shards = shard_reader()
        self._digest = engine.config.digest
        self._follower = UpdateFollower(self._digest)
        self._reader = UpdateReader(kafka, start=0)
        self._said = Sparing()
        self._others = 0
        """Records of other models read so far: the log's end is often known only after all of them were counted."""
        self._looked = float("-inf")
        self.caught_up = False
        """It has been at the end of the log."""
        self._shown: tuple[bool, int | None] | None = None
        self._clicks: dict[str, list[int]] = {tier.name: [] for tier in engine.config.tiers}
        self._load_newer()
        engine.warm_up()

    @property
    def fault(self) -> str | None:
        return self._follower.fault

    def apply_waiting(self) -> int:
        """Applies what has come, for GAP_S and one record more; returns the number of updates applied."""
        if self._follower.fault is not None or self._engine.position is None:
            self._look_for_an_image()
        applied, deadline = 0, time.perf_counter() + GAP_S
        while True:
            before = self._reader.next
            for record in self._reader.poll(1):
                applied += self._take(record)
            if self._reader.next == before or time.perf_counter() >= deadline:
                break
        self.caught_up = self.caught_up or self._reader.at_end
        self._count()
        self._tell_of_other_models()
        return applied

    def clicks_ms(self, tier: str) -> list[int]:
        """Broker timestamps of clicks that the weights have learned since the last call for this tier.

        Not of what was there before this replica had caught up: it is no measure of how soon they come.
        """
        clicks, self._clicks[tier] = self._clicks[tier], []
        return clicks

    def _take(self, record: Record) -> bool:
        """Whether it completed an update, which is then applied."""
        fault = self._follower.fault
        update = self._follower.feed(record.value or b"", record.offset)
        if self._follower.fault is not None and fault is None:
            log.error("updates stop: %s; serving %s", self._follower.fault, self._engine.position)
        if update is None:
            return False
        position = self._follower.position
        assert position is not None  # after the update it has just handed out
        try:
            self._engine.apply(update, position)
        except NotApplicable as error:
            log.error("updates stop: %s; serving %s", error, self._engine.position)
            self._follower.fault = str(error)
            return False
        if self.caught_up:
            for clicks in self._clicks.values():
                clicks.extend(update.header.clicks_ms)
                del clicks[:-MAX_CLICKS]
        return True

    def _tell_of_other_models(self) -> None:
        """A ranking worker with another recipe than the trainer's takes partitions, and has nothing to answer with."""
        if self._engine.position is None and self.caught_up and self._others and self._said.due("other models"):
            log.warning(
                "no weights: the log holds %d records of other models and none of %s, %r: each request gets a "
                "fallback. Start the trainer and all ranking workers with one recipe, or another model's workers on "
                "topics of their own",
                self._others,
                self._digest,
                self._engine.config.name,
            )

    def _look_for_an_image(self) -> None:
        if time.monotonic() - self._looked > LOOK_AGAIN_S:
            self._load_newer()

    def _load_newer(self) -> None:
        self._looked = time.monotonic()
        held = self._engine.position
        try:
            snapshots = list_snapshots(self._snapshots, self._digest)
        except OSError as error:  # a store that is away must not end the serving
            if self._said.due("listing"):
                log.warning("snapshots in %s cannot be listed: %s", self._snapshots, error)
            return
        for snapshot in reversed(snapshots):
            position = snapshot.manifest.position
            if held is not None and position.place <= held.place:
                return
            try:
                load_image(snapshot, self._engine.image, self._shards)
            except (SnapshotError, NotApplicable) as error:
                if self._said.due(snapshot.name):
                    log.warning("snapshot: %s", error)
                continue
            log.info("loaded the image of epoch %d, update %d", position.epoch, position.number)
            self._follower = UpdateFollower(self._digest, position)
            self._reader.seek(position.offset)
            return

    def _count(self) -> None:
        for reason, count in self._follower.skipped.items():
            metric.UPDATES_SKIPPED.labels(reason).inc(count)
        self._others += self._follower.skipped["other_model"]
        self._follower.skipped.clear()
        shown = (
            self._follower.fault is not None,
            None if self._engine.position is None else self._engine.position.number,
        )
        if shown != self._shown:  # each tick asks, and a gauge that is set is written to a file
            self._shown = shown
            metric.MODEL_FAULT.set(shown[0])
            if shown[1] is not None:
                metric.MODEL_NUMBER.set(shown[1])

    def close(self) -> None:
        self._reader.close()
