"""What a house has come to after faults: its audit, its fallbacks, and whether all hold the same weights."""

import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from itertools import chain

import torch

from kernels.linear_compress import bind, choose_impl
from ranker.engine import Engine
from ranker.snapshots.snapshot import list_snapshots, load_image
from ranker.updates.image import Image
from streams.audit import AuditReport, run_audit
from streams.config.snapshots import shard_reader
from streams.errors import Refused
from streams.kafka.scan import read_topic
from streams.local.house import House
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import RankingRequest, RankingResponse
from streams.wire.record import Record
from streams.wire.topics import (
    CONVERSIONS,
    DECISIONS,
    EXAMPLES,
    IMPRESSIONS,
    OUTCOMES,
    REQUESTS,
    RESPONSES,
    REWARDS,
    SERVED,
    TOPICS,
)
from streams.workers.rank.replica import Replica

PATIENCE_S = 240.0
"""Seconds for anything to come right; importing torch alone takes a while on a busy machine."""
SETTLING_S = 3.0
"""Seconds around an outage: requests of that time may still be answered late."""
WAITING = (("requests", "pending"), ("events", "not_read"), ("joins", "pending"), ("rewards", "pending"))


def settled_audit(up: House) -> AuditReport:
    """Audits once all is read and all windows are closed; if that does not come about in time, as things are then."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        report = run_audit(up.settings)
        if not any(report.count(*line) for line in WAITING) or time.monotonic() > deadline:
            return report
        time.sleep(2.0)


def fallbacks(up: House, outages: Sequence[tuple[int, int]], deleted: Iterable[Record] = ()) -> tuple[int, int, int]:
    """Requests that had a fallback as their first response: within outages, outside, and requests outside in all.

    A request belongs to an outage that began, or ended, within SETTLING_S of it. deleted: requests that the topic had.
    """
    margin = int(1000 * SETTLING_S)

    def in_outage(at_ms: int) -> bool:
        return any(began - margin <= at_ms <= ended + margin for began, ended in outages)

    first: dict[str, str] = {}
    for record in read_topic(up.kafka, RESPONSES):
        response: RankingResponse = decode(TOPICS[RESPONSES], record.value, record.header(CONTENT_TYPE))
        first.setdefault(response.request_id, response.status)
    inside = outside = of = 0
    for record in chain(deleted, read_topic(up.kafka, REQUESTS)):
        try:
            request: RankingRequest = decode(TOPICS[REQUESTS], record.value, record.header(CONTENT_TYPE))
        except Refused:
            continue
        fell = first.get(request.request_id) == "fallback"
        if in_outage(record.timestamp_ms):
            inside += fell
        else:
            of += 1
            outside += fell
    return inside, outside, of


def fingerprint(image: Image) -> str:
    """Returns a digest of every bit that decides a score."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(image.tensors().items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def images(up: House, follower: Replica, followed: Engine) -> dict[str, tuple[str, str]]:
    """Version and fingerprint of the three, once the newest snapshot stands where the log ends and nothing comes."""
    fresh, published = new_engine(up), new_engine(up)
    fresh_follower = Replica(fresh, up.kafka, str(up.home / "snapshots"))
    named = {"old replica": followed, "fresh replica": fresh, "published image": published}
    deadline = time.monotonic() + PATIENCE_S
    try:
        while True:
            follower.apply_waiting()
            fresh_follower.apply_waiting()
            snapshots = list_snapshots(str(up.home / "snapshots"), up.settings.recipe.model.digest)
            if snapshots:
                load_image(snapshots[-1], published.image, shard_reader())
            versions = {name: _version(engine) for name, engine in named.items()}
            if len(set(versions.values())) == 1 or time.monotonic() > deadline:
                return {name: (versions[name], fingerprint(engine.image)) for name, engine in named.items()}
            time.sleep(0.5)
    finally:
        fresh_follower.close()


def _version(engine: Engine) -> str:
    return f"epoch {engine.position.epoch}, update {engine.position.number}" if engine.position else "none"


def tell(up: House, report: AuditReport) -> None:
    """What the topics hold of the first ids that the audit finds fault with: of requests, or of responses."""
    ids = [name for found in report.as_dict()["fault"] for name in found["ids"][:3]]
    for asked in sorted({match[0] if (match := re.search(r"chaos\d*-\d+", name)) else name for name in ids}):
        for topic in (REQUESTS, SERVED, IMPRESSIONS, CONVERSIONS, EXAMPLES, DECISIONS, OUTCOMES, REWARDS):
            for record in read_topic(up.kafka, topic):
                if re.search(rb"%b(?!\d)" % re.escape(asked.encode()), record.value or b""):
                    said = decode(TOPICS[topic], record.value, record.header(CONTENT_TYPE))
                    print(f"{asked}: {record} at {record.timestamp_ms} {said}"[:2000])


def tell_of_gate(up: House) -> None:
    """All that the trainers said of it: no label lies here, so each breach wants an explanation."""
    for log in sorted((up.home / "logs").glob("train*")):
        for line in log.read_text(errors="replace").splitlines():
            if "the gate" in line:
                print(line)


def new_engine(up: House) -> Engine:
    return Engine(up.settings.recipe.model, bind(choose_impl(torch.device("cpu"))))
