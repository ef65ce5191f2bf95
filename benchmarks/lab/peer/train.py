"""The peer's trainer: joined examples in, a model file out, again and again."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.lab.peer.features import PairFeatures
from benchmarks.lab.peer.kinds import KINDS, Trainer
from feature_store.log import UserLog
from ranker.inputs.features import Featurizer
from streams.config.settings import Settings
from streams.kafka.seen import SeenIds
from streams.runtime.redis_client import PATIENT_S, connect
from streams.runtime.service import Heartbeat
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import TrainingExample
from streams.wire.record import Record
from streams.wire.topics import EXAMPLES, GROUPS, TOPICS
from streams.workers.train.examples import labelled_requests, once

STEP_S = 0.2
SAVES_EVERY_S = 1.0
"""Between two model files: each is written whole, and read whole."""


class Learning:
    def __init__(self, settings: Settings, trainer: Trainer) -> None:
        recipe = settings.recipe
        self._trainer = trainer
        self._user_log = UserLog(connect(settings.redis_url, timeout_s=PATIENT_S), recipe.log)
        self._length = recipe.model.max_log_length
        self._featurizer, self._features = Featurizer(recipe.model), PairFeatures(recipe.model)

    def step(self, examples: list[TrainingExample]) -> None:
        clicks = [example for example in examples if example.kind == "click"]
        responses = labelled_requests(clicks, self._user_log, self._length) if clicks else []
        if not responses:
            return
        keyed = self._featurizer.keys([r.request for r in responses], 0, crossed=False)
        pairs = self._features.of(keyed, [r.request.log for r in responses])
        click_N, position_N = (
            np.concatenate([getattr(r, name) for r in responses]) for name in ("click_N", "position_N")
        )
        self._trainer.learn(pairs, click_N, position_N)


def run_train(settings: Settings, stop: threading.Event, heartbeat: Heartbeat) -> None:
    torch.set_num_threads(1)
    kind = KINDS[os.environ["PEER"]]
    path = Path(os.environ["PEER_MODEL"]) / kind.file
    trainer = kind.trainer(settings.recipe.model)
    learning, seen = Learning(settings, trainer), SeenIds()
    trainer.save(path)
    consumer = settings.kafka.group_consumer(GROUPS["train"], "peer")
    consumer.subscribe([EXAMPLES])
    waiting: list[TrainingExample] = []
    step_due = save_due = 0.0
    learned = False
    while not stop.is_set():
        heartbeat.beat()
        for message in consumer.consume(512, 0.05):
            if message.error() is None:
                record = Record.of(message)
                waiting.append(decode(TOPICS[EXAMPLES], record.value, record.header(CONTENT_TYPE)))
        now = time.monotonic()
        if waiting and now >= step_due:
            step_due = now + STEP_S
            learning.step(once(waiting, seen))
            waiting, learned = [], True
        if learned and now >= save_due:
            save_due, learned = now + SAVES_EVERY_S, False
            trainer.save(path)
    consumer.close()
