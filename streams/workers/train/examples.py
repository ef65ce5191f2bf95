"""Records of training.examples → what the learner takes in: grouped by response, with the log as serving saw it."""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from feature_store.facts import Position
from feature_store.log import LogGone, LogSlice, LogWantAsOf, UserLog
from ranker.delayed.policies import NO_EMISSION, Emission
from ranker.inputs.requests import LabelledRequest, ScoringRequest
from streams.kafka.seen import SeenIds
from streams.runtime import metrics as metric
from streams.wire.headers import CLOSED_MS
from streams.wire.messages import Served, TrainingExample
from streams.wire.record import Record

log = logging.getLogger(__name__)


def windows_closed_ms(record: Record, example: TrainingExample) -> int:
    """Event time of the join when it sent this example: no label of an earlier window is to come.

    While ingest holds its windows it stands still, and clicks come all the time. Of a record without it, the label's.
    """
    closed = record.header(CLOSED_MS) or ""
    return int(closed) if closed.isdecimal() and len(closed) <= _DIGITS else example.label_ms


_DIGITS = 16


def labelled_requests(examples: Sequence[TrainingExample], user_log: UserLog, log_length: int) -> list[LabelledRequest]:
    """One for each response whose log can be read as serving saw it; the others' examples are counted as skipped.

    One round trip. Raises redis' errors.
    """
    by_response: defaultdict[str, list[TrainingExample]] = defaultdict(list)
    for example in examples:
        by_response[example.response_id].append(example)
    groups = list(by_response.values())
    wants = [
        LogWantAsOf(group[0].user, Position(group[0].log.generation, group[0].log.count), log_length)
        for group in groups
    ]
    found: list[LabelledRequest] = []
    for group, events in zip(groups, user_log.read_as_of(wants), strict=True):
        if isinstance(events, LogGone):
            metric.SKIPPED.labels(f"log_{events.reason}").inc(len(group))
        else:
            found.append(_labelled(group, events))
    return found


def _labelled(examples: Sequence[TrainingExample], events: LogSlice) -> LabelledRequest:
    """The examples of one response: an item's click and its conversion example share a place; where a provisional
    example and the final one came together, the item has two."""
    first = examples[0]
    places: dict[tuple[str, int], int] = {}
    place_of, seen = [], Counter[tuple[str, str]]()
    for example in examples:
        same = example.item, example.kind
        place_of.append(places.setdefault((example.item, seen[same]), len(places)))
        seen[same] += 1
    count = len(places)
    click, conversion = np.full(count, np.nan, np.float32), np.full(count, np.nan, np.float32)
    pctr, pcvr, value = (np.zeros(count, np.float32) for _ in range(3))
    position, shown_ms = (np.zeros(count, np.int64) for _ in range(2))
    emissions = {kind: np.full(count, NO_EMISSION, np.int64) for kind in ("click", "conversion")}
    features: list[dict[str, str | float | list[str]]] = [{} for _ in places]
    for example, place in zip(examples, place_of, strict=True):
        emissions[example.kind][place] = emission(example)
        label_N = click if example.kind == "click" else conversion
        label_N[place] = np.nan if example.provisional else example.label
        pctr[place], pcvr[place], position[place] = example.pctr, example.pcvr, example.position
        value[place] = max(value[place], example.value)
        shown_ms[place] = example.shown_ms or example.event_ms
        features[place] = example.item_features
    request = ScoringRequest(
        user=first.user,
        features=first.features,
        context=first.context,
        surface=first.surface,
        event_ms=first.event_ms,
        items=[item for item, _ in places],
        item_features=features,
        log=events.events,
    )
    return LabelledRequest(
        request=request,
        response_id=first.response_id,
        tier=first.tier,
        served_by=(first.model.epoch, first.model.number),
        click_N=click,
        conversion_N=conversion,
        position_N=position,
        pctr_N=pctr,
        pcvr_N=pcvr,
        value_N=value,
        shown_ms_N=shown_ms,
        click_emission_N=emissions["click"],
        emission_N=emissions["conversion"],
    )


def emission(example: TrainingExample) -> Emission:
    if example.provisional:
        return Emission.PROVISIONAL
    if example.label == 0:
        return Emission.CLOSED
    return Emission.CORRECTED if example.corrects else Emission.CONVERTED


def surprise(example: TrainingExample) -> float:
    """Nats: how unlikely its label was, by what was predicted of it when it was served."""
    predicted = example.pctr if example.kind == "click" else example.pcvr
    return -math.log(max(predicted if example.label > 0 else 1 - predicted, _P_MIN))


_P_MIN = 1e-3


def once(examples: Iterable[TrainingExample], seen: SeenIds) -> list[TrainingExample]:
    """Without those that were learned before; they are counted."""
    fresh = []
    for example in examples:
        if seen.add(example.example_id):
            fresh.append(example)
        else:
            metric.SKIPPED.labels("duplicate").inc()
    return fresh


def served_request(served: Served, events: LogSlice | None = None) -> ScoringRequest:
    """What scoring saw, asked again: with the log as it was then, or without one."""
    request = ScoringRequest(
        user=served.user,
        features=served.features,
        context=served.context,
        surface=served.surface,
        event_ms=served.event_ms,
        items=[item.item for item in served.items],
        item_features=[item.features for item in served.items],
    )
    return request if events is None else replace(request, log=events.events)
