"""Sampled traffic with its labels, and the weights that serve it: what pruning and low precision are judged by.

From a running system (`kafka`), or from a simulated world without one (`simulate`), whose truth is known: there the
held-out labels are the true probabilities, so that a small sample tells small differences apart.
"""

import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from feature_store.events import action_code, surface_code
from feature_store.facts import Position as LogPosition
from feature_store.log import LogSlice, LogWantAsOf, UserLog
from kernels.linear_compress import bind
from ranker.config import LearnerConfig, ModelConfig
from ranker.inputs.hashing import hash64
from ranker.inputs.requests import LOG_DTYPE, LabelledRequest, ScoringRequest
from ranker.snapshots.snapshot import SnapshotError, list_snapshots, load_image, load_training_state
from ranker.updates.image import Image, new_image
from ranker.updates.log import Position
from ranker.updates.record import Update, UpdateHeader
from streams.config.recipe import Recipe
from streams.config.settings import Settings, from_environment, snapshot_store
from streams.config.snapshots import shard_reader
from streams.errors import Refused, StartError
from streams.kafka.scan import read_topic
from streams.kafka.seen import SeenIds
from streams.runtime.redis_client import connect
from streams.simulate.config import WORLDS, WorldConfig
from streams.simulate.outcomes import events, search_event, show
from streams.simulate.traffic import Traffic
from streams.simulate.world import World
from streams.tuning.sample_options import SampleOptions
from streams.wire.codec import decode
from streams.wire.messages import Impression, Served, TrainingExample
from streams.wire.topics import EXAMPLES, SERVED, TOPICS
from streams.workers.train.examples import labelled_requests, once, served_request

COMPRESS = bind("decomposed")
_VISIT_MS = 50
_START_MS = 1_700_000_000_000
_STEP = 32
"""Responses in one step of training."""
_MEASURED_SHARE = 0.25
"""Share of the sampled responses that give contributions; the others are held out."""
_REQUESTS = 64
"""Most requests whose times are taken."""


@dataclass(frozen=True, slots=True)
class Weights:
    image: Image
    training: dict[str, Tensor]
    """A learner's state."""
    root: str | None
    """Where the snapshot was; None of a model trained here."""


@dataclass(frozen=True, slots=True)
class Sample:
    weights: Weights
    measured: list[LabelledRequest]
    held_out: list[LabelledRequest]
    requests: list[ScoringRequest]
    """Requests as they were asked, with all candidates (of `kafka`: as many as were returned)."""


def take_sample(
    recipe: Recipe, snapshots: str | None, options: SampleOptions, say: Callable[[str], None] = lambda line: None
) -> Sample:
    """Samples traffic, and loads or learns the weights. Raises StartError where there is no snapshot of the recipe's
    model, no traffic, or nothing to train from.

    say: hears what comes next, of what takes a while.
    """
    weights = None if snapshots is None else newest_weights(snapshot_store(snapshots), recipe.model)
    if options.source == "kafka":
        settings = replace(from_environment(), recipe=recipe)
        weights = weights or newest_weights(settings.snapshots, recipe.model)
        examples, requests = recorded(settings, options.responses)
    else:
        world = SimulatedTraffic(recipe.model, WORLDS[options.world](), seed=options.seed)
        if weights is None:
            say(f"learning from {options.train} simulated responses")
            learned, _ = world.take(options.train)
            weights = trained(recipe.model, recipe.training.learner, learned)
        say(f"sampling {options.responses} more")
        examples, requests = world.take(round(options.responses * _MEASURED_SHARE))
        held_out, _ = world.take(options.responses - len(examples), expected=True)
        return Sample(weights, examples, held_out, requests[-_REQUESTS:])
    cut = round(len(examples) * _MEASURED_SHARE)
    return Sample(weights, examples[:cut], examples[cut:], requests[-_REQUESTS:])


class SimulatedTraffic:
    """Responses of a simulated world: of each visit the first candidates are shown, in the order they came."""

    def __init__(self, model: ModelConfig, world: WorldConfig, *, seed: int) -> None:
        self._world = World(world, seed=seed, start_ms=_START_MS)
        self._traffic = Traffic(self._world)
        self._log_length = model.max_log_length
        self._tier = model.tiers[-1].name  # all cheaper ones learn with it
        self._logs: defaultdict[int, list[tuple[int, tuple[int, int, int, int, float]]]] = defaultdict(list)
        self._number = itertools.count()

    def take(self, count: int, *, expected: bool = False) -> tuple[list[LabelledRequest], list[ScoringRequest]]:
        """The next responses, and the requests that they answer.

        expected: labels are the true probabilities instead of what happened (of a conversion: after a click that
        happened); what goes to the logs has happened either way.
        """
        pairs = [self._next(expected) for _ in range(count)]
        return [labelled for labelled, _ in pairs], [request for _, request in pairs]

    def _next(self, expected: bool) -> tuple[LabelledRequest, ScoringRequest]:
        world, number = self._world, next(self._number)
        now_ms = _START_MS + _VISIT_MS * number
        visit, name = self._traffic.next(now_ms), f"r{number}"
        if (search := search_event(world, visit, name, now_ms)) is not None:
            self._append(visit.user, "search", search.item or "", visit.surface, 0.0, now_ms)
        request = ScoringRequest(
            user=world.user_ids[visit.user],
            event_ms=now_ms,
            items=[world.item_ids[i] for i in visit.items],
            item_features=[world.item_features(int(i)) for i in visit.items],
            features=world.user_features(visit.user),
            context={"device": visit.device},
            surface=visit.surface,
            log=self._log(visit.user, now_ms),
        )
        page = show(world, visit, name, name, visit.items, now_ms)
        places = {world.item_ids[item]: place for place, item in enumerate(page.items)}
        labels = {kind: np.zeros(len(places), np.float32) for kind in ("click", "purchase")}
        for event in events(world, page):
            message = event.message
            if event.repeated:
                continue
            kind = "impression" if isinstance(message, Impression) else message.kind
            if kind in labels:
                labels[kind][places[message.item or ""]] = 1
            value = 0.0 if isinstance(message, Impression) else message.value
            self._append(visit.user, kind, message.item or "", message.surface, value, message.event_ms)
        clicked = labels["click"] == 1
        truth = (page.click, world.conversion_probability(visit.user, page.items))
        click, conversion = truth if expected else (labels["click"], labels["purchase"])
        zeros = np.zeros(len(places), np.float32)
        labelled = LabelledRequest(
            request=request.subset(range(len(places))),
            response_id=name,
            tier=self._tier,
            click_N=click.astype(np.float32),
            conversion_N=np.where(clicked, conversion, np.nan).astype(np.float32),
            position_N=np.arange(len(places)),
            pctr_N=zeros,
            pcvr_N=zeros,
            value_N=zeros,
        )
        return labelled, request

    def _append(self, user: int, kind: str, item: str, surface: str, value: float, ms: int) -> None:
        row = (ms // 1000, hash64(item), action_code(kind), surface_code(surface), value)
        self._logs[user].append((ms, row))

    def _log(self, user: int, now_ms: int) -> np.ndarray:
        """What had happened by now: a click comes after its page."""
        past = sorted(event for event in self._logs[user] if event[0] <= now_ms)
        return np.array([row for _, row in past[-self._log_length :]], LOG_DTYPE)


def recorded(settings: Settings, count: int) -> tuple[list[LabelledRequest], list[ScoringRequest]]:
    """The newest labelled responses, and the newest served requests, with their logs as scoring saw them."""
    kafka, length = settings.kafka, settings.recipe.model.max_log_length
    user_log = UserLog(connect(settings.redis_url), settings.recipe.log)
    newest: deque[TrainingExample] = deque(maxlen=8 * count)
    for record in read_topic(kafka, EXAMPLES):
        with suppress(Refused):  # somebody else's to report (`tiderank dlq`)
            newest.append(decode(TOPICS[EXAMPLES], record.value))
    examples = labelled_requests(once(newest, SeenIds()), user_log, length)[-count:]
    served: deque[Served] = deque(maxlen=_REQUESTS)
    for record in read_topic(kafka, SERVED):
        with suppress(Refused):
            served.append(decode(TOPICS[SERVED], record.value))
    wants = [LogWantAsOf(s.user, LogPosition(s.log.generation, s.log.count), length) for s in served]
    logs = user_log.read_as_of(wants)
    requests = [
        served_request(s, log) for s, log in zip(served, logs, strict=True) if isinstance(log, LogSlice) and s.items
    ]
    if not examples or not requests:
        raise StartError(f"{EXAMPLES} and {SERVED} hold too little to sample: drive traffic first, or simulate it")
    return examples, requests


def newest_weights(root: str, model: ModelConfig) -> Weights:
    """Loads the newest snapshot of this model that is whole. Raises StartError where there is none."""
    image, reader = new_image(model, COMPRESS), shard_reader()
    for snapshot in reversed(list_snapshots(root, model.digest)):
        try:
            load_image(snapshot, image, reader)
            return Weights(image, load_training_state(snapshot, reader), root)
        except SnapshotError:
            continue
    raise StartError(f"{root} holds no snapshot of model {model.name!r} ({model.digest}); is it of another recipe?")


def trained(model: ModelConfig, settings: LearnerConfig, examples: Sequence[LabelledRequest]) -> Weights:
    """Returns the weights of a model that has learned these once, in their order, as a trainer would publish and store
    it."""
    from ranker.learning.learner import Learner  # TorchRec takes seconds to import
    from ranker.learning.state import training_state

    learner = Learner(model, settings, COMPRESS)
    for start in range(0, len(examples), _STEP):
        learner.learn(examples[start : start + _STEP])
    header = UpdateHeader(
        epoch=1,
        number=1,
        previous=0,
        digest=model.digest,
        trainer="sample",
        reset=True,
        offsets={},
        watermark_ms=examples[-1].request.event_ms if examples else 0,
    )
    image = new_image(model, COMPRESS)
    image.apply(Update(header, learner.take_changes()), Position(epoch=1, number=1, trainer="sample", offset=0))
    return Weights(image, training_state(learner), None)
