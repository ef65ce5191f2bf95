"""The peer's ranking worker: requests in, ranked ads out, by the newest model file."""

import os
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer

from benchmarks.lab.peer.features import PairFeatures
from benchmarks.lab.peer.kinds import KINDS, Scorer
from feature_store.log import LogSlice, LogWant, UserLog
from ranker.arrays import F32
from ranker.config import ModelConfig
from ranker.inputs.features import Featurizer
from ranker.inputs.requests import ScoringRequest
from streams.config.settings import Settings
from streams.runtime.redis_client import connect
from streams.runtime.service import Heartbeat
from streams.wire.codec import decode, encode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import LogRef, ModelVersion, RankedItem, RankingRequest, RankingResponse, Served, ServedItem
from streams.wire.record import Record
from streams.wire.topics import GROUPS, REQUESTS, RESPONSES, SERVED, TOPICS

LOOKS_EVERY_S = 0.5
COMMITS_EVERY_S = 1.0
_VERSION = ModelVersion(epoch=1, number=1)


class NewestModel:
    """The scorer of a file, anew when the file is."""

    def __init__(self, path: Path, kind: str, model: ModelConfig) -> None:
        self._path, self._make, self._model = path, KINDS[kind].scorer, model
        self._due, self._made_ns = 0.0, -1
        self.scorer: Scorer | None = None

    def look(self) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + LOOKS_EVERY_S
        made_ns = self._path.stat().st_mtime_ns if self._path.exists() else 0
        if made_ns != self._made_ns and (made_ns or self._path.suffix == ".txt"):
            self._made_ns = made_ns
            self.scorer = self._make(self._path, self._model)


class Ranker:
    def __init__(self, settings: Settings, newest: NewestModel) -> None:
        recipe = settings.recipe
        self._user_log = UserLog(connect(settings.redis_url), recipe.log)
        self._length = recipe.model.max_log_length
        self._featurizer, self._features = Featurizer(recipe.model), PairFeatures(recipe.model)
        self._newest = newest
        self._producer = settings.kafka.producer()

    def answer(self, records: Sequence[Record]) -> None:
        """Scores all pairs of a poll together."""
        asked = [(decode(TOPICS[REQUESTS], r.value, r.header(CONTENT_TYPE)), r.timestamp_ms) for r in records]
        logs = self._user_log.read([LogWant(request.user, self._length) for request, _ in asked])
        scoring = [
            ScoringRequest(
                user=request.user,
                event_ms=request.event_ms or sent_ms,
                items=[c.item for c in request.candidates],
                item_features=[c.features for c in request.candidates],
                features=request.features,
                context=request.context,
                surface=request.surface,
            )
            for request, sent_ms in asked
        ]
        pairs = self._features.of(self._featurizer.keys(scoring, 0, crossed=False), [log.events for log in logs])
        assert self._newest.scorer is not None
        p_N = self._newest.scorer.predict(pairs)
        end = 0
        for (request, _), log, one in zip(asked, logs, scoring, strict=True):
            begin, end = end, end + len(request.candidates)
            self._send(request, log, one.event_ms, p_N[begin:end])
        self._producer.poll(0)

    def _send(self, request: RankingRequest, log: LogSlice, event_ms: int, p_k: F32) -> None:
        value_k = p_k * np.array([c.bid for c in request.candidates], np.float32)
        best = np.argsort(-value_k)[: request.top_k].tolist()
        p, value = p_k.tolist(), value_k.tolist()
        response_id, plan = uuid.uuid4().hex, "peer"
        response = RankingResponse(
            response_id=response_id,
            request_id=request.request_id,
            user=request.user,
            status="ok",
            items=[RankedItem(item=request.candidates[i].item, pctr=p[i], pcvr=0.0, value=value[i]) for i in best],
            tier=plan,
            plan=plan,
            model=_VERSION,
            event_ms=event_ms,
        )
        served = Served(
            response_id=response_id,
            request_id=request.request_id,
            user=request.user,
            surface=request.surface,
            event_ms=event_ms,
            log=LogRef(generation=log.position.generation, count=log.position.count),
            features=request.features,
            context=request.context,
            items=[
                ServedItem(item=c.item, features=c.features, bid=c.bid, pctr=p[i])
                for i, c in ((i, request.candidates[i]) for i in best)
            ],
            plan=plan,
            tier=plan,
            model=_VERSION,
        )
        for topic, message in ((RESPONSES, response), (SERVED, served)):
            self._producer.produce(topic, encode(TOPICS[topic], message), key=request.user)

    def flush(self) -> None:
        self._producer.flush(30)


def polled(consumer: Consumer) -> list[Record]:
    """Waits for a record, and takes what else is there: `consume` alone would hold a lone one for all its timeout."""
    first = consumer.poll(0.05)
    messages = [] if first is None else [first, *consumer.consume(63, timeout=0)]
    return [Record.of(message) for message in messages if message.error() is None]


def run_rank(settings: Settings, stop: threading.Event, heartbeat: Heartbeat) -> None:
    kind = os.environ["PEER"]
    newest = NewestModel(Path(os.environ["PEER_MODEL"]) / KINDS[kind].file, kind, settings.recipe.model)
    ranker = Ranker(settings, newest)
    consumer = settings.kafka.group_consumer(GROUPS["rank"], "peer", uncommitted=True)
    consumer.subscribe([REQUESTS])
    commit_due = 0.0
    while not stop.is_set():
        heartbeat.beat()
        newest.look()
        records = [] if newest.scorer is None else polled(consumer)
        if records:
            ranker.answer(records)
        if time.monotonic() >= commit_due:
            commit_due = time.monotonic() + COMMITS_EVERY_S
            ranker.flush()
            if consumer.assignment():
                consumer.commit(asynchronous=True)
        if newest.scorer is None:
            stop.wait(0.05)
    ranker.flush()
    consumer.close()
