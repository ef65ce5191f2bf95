"""The same join again, over a whole history at once: what labels must have come out. Plain Python, no Redis.

It is what the join in Redis is compared with, and what an audit expects. It knows the windows in event time only, so it
holds for histories in which every fact came before the clock passed it: then the order of arrival does not matter.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

from feature_store.config import JoinConfig
from feature_store.facts import ActionFact, Fact, ImpressionFact, Label, ServedFact, example_id


@dataclass(frozen=True, slots=True)
class Expected:
    label: Label
    contested: bool
    """More than one action could have decided it: which one did (trigger, time, value) is a matter of arrival."""
    certain: bool = True
    """False: whether there is such a label at all depends on which of several actions was taken."""


@dataclass(slots=True)
class _Pair:
    """One impression of one item of one response, and the actions that may belong to it."""

    shown: ImpressionFact
    clicks: list[ActionFact] = field(default_factory=list)
    conversions: list[ActionFact] = field(default_factory=list)


def expected_labels(facts: Iterable[Fact], config: JoinConfig, now_ms: int) -> dict[str, Expected]:
    """By example id, every label that must have come out once the clock stands at now_ms.

    Redeliveries are allowed. The order of the facts decides only which of two impressions of the same item of the same
    response counts (the first), and which of two actions is named (the first; see Expected.contested).
    """
    of_user: defaultdict[str, dict[tuple[type, str], Fact]] = defaultdict(dict)
    for fact in facts:
        name = fact.response_id if isinstance(fact, ServedFact) else fact.event_id
        of_user[fact.user].setdefault((type(fact), name), fact)
    found = {}
    for mine in of_user.values():
        for expected in _labels_of_user(list(mine.values()), config, now_ms):
            found[example_id(expected.label)] = expected
    return found


def _labels_of_user(facts: list[Fact], config: JoinConfig, now_ms: int) -> Iterable[Expected]:
    served = {fact.response_id: fact for fact in facts if isinstance(fact, ServedFact)}
    pairs: dict[tuple[str, str], _Pair] = {}
    named: dict[str, tuple[_Pair, int]] = {}
    for fact in facts:
        if isinstance(fact, ImpressionFact):
            named[fact.event_id] = pairs.setdefault((fact.response_id, fact.item), _Pair(fact)), fact.event_ms
    for fact in facts:
        if isinstance(fact, ActionFact) and fact.role != "log":
            _attribute(fact, pairs, named, config, now_ms)
    for pair in pairs.values():
        record = served.get(pair.shown.response_id)
        if record is not None and _may_be_shown(pair.shown, record, config):
            yield from _labels_of_pair(pair, record.blob, config, now_ms)


def _may_be_shown(shown: ImpressionFact, record: ServedFact, config: JoinConfig) -> bool:
    return shown.item in record.items and shown.event_ms >= record.event_ms - config.skew_ms


def _attribute(
    action: ActionFact,
    pairs: dict[tuple[str, str], _Pair],
    named: dict[str, tuple[_Pair, int]],
    config: JoinConfig,
    now_ms: int,
) -> None:
    window_ms = config.click_window_ms if action.role == "click" else config.attribution_window_ms
    pair: _Pair | None = None
    if action.impression_id is not None:
        pair, named_ms = named.get(action.impression_id, (None, 0))
        if action.event_ms < named_ms - config.early_ms:
            return
    elif action.event_ms <= now_ms:
        of_item = (p for p in pairs.values() if p.shown.item == action.item)
        before = [p for p in of_item if 0 <= action.event_ms - p.shown.event_ms <= window_ms]
        pair = max(before, key=lambda p: (p.shown.event_ms, p.shown.event_id), default=None)
    if pair is not None and action.event_ms <= pair.shown.event_ms + window_ms:
        (pair.clicks if action.role == "click" else pair.conversions).append(action)


def _labels_of_pair(pair: _Pair, blob: bytes, config: JoinConfig, now_ms: int) -> Iterable[Expected]:
    yield from _unclicked(pair, blob, config, now_ms)
    if pair.clicks:
        yield _clicked(pair, blob, config)
        yield from _provisional(pair, blob, config, now_ms)
        if pair.conversions:
            yield _converted(pair, blob, config)
        elif pair.shown.event_ms + config.attribution_window_ms <= now_ms:
            yield _negative(pair, "conversion", config.attribution_window_ms, blob)
    elif pair.shown.event_ms + config.click_window_ms <= now_ms:
        yield _negative(pair, "click", config.click_window_ms, blob)


def _positive(pair: _Pair, actions: list[ActionFact], blob: bytes) -> Expected:
    shown, action = pair.shown, actions[0]
    label = Label(
        kind="click" if action.role == "click" else "conversion",
        label=1,
        value=action.value,
        response_id=shown.response_id,
        item=shown.item,
        position=shown.position,
        impression_id=shown.event_id,
        impression_ms=shown.event_ms,
        trigger_id=action.event_id,
        trigger_kafka_ms=action.kafka_ms,
        label_ms=action.event_ms,
        blob=blob,
        by_window=False,
    )
    return Expected(label, contested=len(actions) > 1)


def _clicked(pair: _Pair, blob: bytes, config: JoinConfig) -> Expected:
    found = _positive(pair, pair.clicks, blob)
    after = 0 < config.click_elapsed_ms < pair.clicks[0].event_ms - pair.shown.event_ms
    return replace(found, label=replace(found.label, corrects=after))


def _unclicked(pair: _Pair, blob: bytes, config: JoinConfig, now_ms: int) -> Iterable[Expected]:
    """What is said of a pair before its click label is certain."""
    until_ms = pair.shown.event_ms + config.click_elapsed_ms
    says = [click.event_ms > until_ms for click in pair.clicks] or [True]
    if config.click_elapsed_ms > 0 and until_ms <= now_ms and any(says):
        said = _negative(pair, "click", config.click_elapsed_ms, blob).label
        yield Expected(replace(said, provisional=True), contested=False, certain=all(says))


def _converted(pair: _Pair, blob: bytes, config: JoinConfig) -> Expected:
    found = _positive(pair, pair.conversions, blob)
    match config.provisional:
        case "none":
            return found
        case "click":
            return replace(found, label=replace(found.label, corrects=True))
        case "elapsed":
            after = pair.conversions[0].event_ms > pair.clicks[0].event_ms + config.elapsed_ms
            contested = found.contested or len(pair.clicks) > 1
            return Expected(replace(found.label, corrects=after), contested)


def _provisional(pair: _Pair, blob: bytes, config: JoinConfig, now_ms: int) -> Iterable[Expected]:
    """What is said of a clicked pair before its label is certain."""
    click = pair.clicks[0]
    said = _negative(pair, "conversion", config.attribution_window_ms, blob).label
    contested = len(pair.clicks) > 1
    if config.provisional == "click":
        label = replace(
            said,
            trigger_id=click.event_id,
            trigger_kafka_ms=click.kafka_ms,
            label_ms=click.event_ms,
            by_window=False,
            provisional=True,
        )
        yield Expected(label, contested)
    elif config.provisional == "elapsed" and click.event_ms + config.elapsed_ms <= now_ms:
        nothing: list[ActionFact | None] = [None]
        choices = product(pair.clicks, pair.conversions or nothing)
        says = [done is None or done.event_ms > clicked.event_ms + config.elapsed_ms for clicked, done in choices]
        if any(says):
            label = replace(said, label_ms=click.event_ms + config.elapsed_ms, provisional=True)
            yield Expected(label, contested, certain=all(says))


def _negative(pair: _Pair, kind: Literal["click", "conversion"], window_ms: int, blob: bytes) -> Expected:
    shown = pair.shown
    label = Label(
        kind=kind,
        label=0,
        value=0.0,
        response_id=shown.response_id,
        item=shown.item,
        position=shown.position,
        impression_id=shown.event_id,
        impression_ms=shown.event_ms,
        trigger_id="",
        trigger_kafka_ms=0,
        label_ms=shown.event_ms + window_ms,
        blob=blob,
        by_window=True,
    )
    return Expected(label, contested=False)
