"""Labels that the topics call for against the training examples that are there. Of Redis it knows the standing timers.

Expected is what `feature_store.offline` makes of the same facts, whatever their order was. The join cannot wait for
ever, so of an action that came after its window could be closed it may say less. Such differences are told apart as
`late`, by when the action was on the broker; everything else that differs is wrong. Where Redis forgot that less was
said, all may be said in a second delivery (docs/wire.md, "Redis killed"): `taken_after_all`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from redis import Redis

from feature_store.config import JoinConfig
from feature_store.facts import ActionFact, Label, example_id
from feature_store.keys import bucket_of, due_key, timer
from feature_store.offline import Expected, expected_labels
from streams.audit.events import NEVER_MS, ClockBound, EventFact, Events
from streams.audit.patience import Patience
from streams.audit.report import Section
from streams.errors import Refused
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import TrainingExample
from streams.wire.record import Record
from streams.wire.topics import EXAMPLES, TOPICS

RACE_MS = 1_000
"""A record this young when the clock could pass may still have been on its way to ingest."""
OVERDUE_MS = 30_000
"""A window that could have been closed this long ago, and still stands, is overdue."""
TIMERS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Produced:
    """What an example says of its label."""

    label: float
    value: float
    response_id: str
    user: str
    item: str
    position: int
    trigger_ms: int
    kafka_ms: int = field(compare=False)
    """Broker timestamp of the delivery."""


class Joins:
    """Feed it all examples before the events are read, so that no example comes without its impression."""

    def __init__(self, config: JoinConfig) -> None:
        self._config = config
        self._produced: dict[str, Produced] = {}
        """By example id, as first delivered."""
        self._again: list[str] = []
        self._changed: defaultdict[str, list[Produced]] = defaultdict(list)
        """By example id, later deliveries that say something else than the first."""
        self._counts: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        """By example id, the label of those that came behind the cut."""
        kinds = ("late", "taken_after_all", "missing", "extra", "different", "changed")
        self._ids: dict[str, list[str]] = {name: [] for name in kinds}
        self._overdue: set[Label] = set()

    def positives_before(self, kafka_ms: int) -> list[str]:
        """Ids of the examples that earned something, delivered before a time of the broker."""
        return [name for name, made in self._produced.items() if made.label > 0 and made.kafka_ms < kafka_ms]

    def add(self, record: Record) -> None:
        e = _example(record)
        if e is None:
            self._counts["refused"] += 1  # none of ours
            return
        made = Produced(e.label, e.value, e.response_id, e.user, e.item, e.position, e.trigger_ms, record.timestamp_ms)
        first = self._produced.setdefault(e.example_id, made)
        if first is not made:
            self._again.append(e.example_id)
            if first != made:
                self._changed[e.example_id].append(made)

    def compare(
        self,
        events: Events,
        clock: ClockBound,
        redis: Redis,
        now_ms: int,
        *,
        read_on: Callable[[], Iterable[Record]],
        catch_up: Callable[[], None],
        patience: Patience,
    ) -> None:
        """read_on: the examples that came since, read after the timers: a window without one has delivered by then.
        catch_up: reads the events on, which may have made another label of one that is missing."""
        expected = expected_labels(events.facts(), self._config, NEVER_MS)
        judge = _Judge(events, clock, self._config, self._produced)
        for name in self._produced.keys() - expected.keys():
            late = judge.misplaced(name) or judge.denied_what_came_late(name, expected)
            self._ids["late" if late else "extra"].append(name)
        missing = [e.label for name, e in expected.items() if e.certain and name not in self._produced]
        due = [label for label in missing if judge.is_due(label, now_ms)]
        standing = self._await_timers(due, judge, redis, now_ms, patience)
        self._since = {e.example_id: e.label for record in read_on() if (e := _example(record)) is not None}
        self._counts["pending"] = len(missing) - len(due) + len(standing)
        for label in due:
            if label not in standing and example_id(label) not in self._since:
                self._ids["late" if judge.click_was_refused(label, self._since) else "missing"].append(
                    example_id(label)
                )
        differences = {
            name: judge.difference(expected[name], self._produced[name])
            for name in expected.keys() & self._produced.keys()
        }
        for name, difference in differences.items():
            if difference is not None:
                self._ids[difference].append(name)
        for name, said in self._changed.items():
            after_all = differences.get(name) == "late" and not any(judge.difference(expected[name], s) for s in said)
            self._ids["taken_after_all" if after_all else "changed"].append(name)
        self._counts["expected"] = len(expected)
        if self._ids["missing"]:
            catch_up()
            now_expected = expected_labels(events.facts(), self._config, NEVER_MS)
            self._ids["missing"] = [n for n in self._ids["missing"] if now_expected.get(n) == expected[n]]

    def _await_timers(
        self, due: Sequence[Label], judge: "_Judge", redis: Redis, now_ms: int, patience: Patience
    ) -> set[Label]:
        """Those whose window or action stands. One that is overdue is given time to go."""
        standing = _standing(due, judge, redis)
        overdue = {label for label in standing if judge.clock.passed_ms(judge.fires_ms(label)) + OVERDUE_MS < now_ms}

        def left() -> int:
            self._overdue &= _standing(list(self._overdue), judge, redis)
            return len(self._overdue)

        self._overdue = overdue
        patience.wait(left)
        return (standing - overdue) | self._overdue

    def section(self, *, events_whole: bool, examples_whole: bool, held: bool) -> Section:
        """held: an open transaction keeps the join's clock where it is."""
        section = Section("joins")
        kinds = Counter((name.partition(":")[0], made.label > 0) for name, made in self._produced.items())
        for (kind, positive), count in sorted(kinds.items()):
            section.count(f"{kind}_{'positive' if positive else 'negative'}", count)
        for name in ("expected", "pending", "refused"):
            section.count(name, self._counts[name])
        section.count("late", len(self._ids["late"]), self._ids["late"])
        section.count("delivered_again", len(self._again), self._again)
        section.count("taken_after_all", len(self._ids["taken_after_all"]), self._ids["taken_after_all"])
        section.fault("delivered_again_changed", self._ids["changed"], verifiable=events_whole)
        section.fault("missing", self._ids["missing"], verifiable=examples_whole)
        section.fault("extra", self._ids["extra"], verifiable=events_whole)
        section.fault("different", self._ids["different"], verifiable=events_whole)
        section.waits("overdue", [example_id(label) for label in self._overdue], held=held)
        return section


def _example(record: Record) -> TrainingExample | None:
    """None where it is none of ours."""
    try:
        example: TrainingExample = decode(TOPICS[EXAMPLES], record.value, record.header(CONTENT_TYPE))
    except Refused:
        return None
    return example


def _standing(labels: Sequence[Label], judge: "_Judge", redis: Redis) -> set[Label]:
    """Those whose window or action still has its timer: the join has yet to decide or to deliver them."""
    found = set()
    rest = iter(labels)
    while some := list(islice(rest, TIMERS_AT_ONCE)):
        with redis.pipeline(transaction=False) as pipe:
            for label in some:
                user = judge.user_of(label)
                # A named action has no timer: its label is delivered before its offset is committed.
                window = {"click": b"c", "conversion": b"e"}[label.kind] if label.provisional else b"p"
                kind, name = (window, label.impression_id) if label.by_window else (b"a", label.trigger_id)
                pipe.zscore(due_key(bucket_of(user)), timer(kind, user, name))
            scores = pipe.execute()
        found |= {
            label
            for label, score in zip(some, scores, strict=True)
            if score is not None and (not label.by_window or score <= label.label_ms)
        }
    return found


class _Judge:
    """What may differ from the expected without being wrong."""

    def __init__(self, events: Events, clock: ClockBound, config: JoinConfig, produced: Mapping[str, Produced]) -> None:
        self.clock = clock
        self._events = events
        self._config = config
        self._produced = produced
        self._unnamed = {
            (user, event.item, event.kafka_ms)
            for user, mine in events.of_user.items()
            for event in mine.values()
            if isinstance(event, ActionFact) and event.role != "log" and event.impression_id is None
        }

    def user_of(self, label: Label) -> str:
        return self._events.served[label.response_id].user

    def is_due(self, label: Label, now_ms: int) -> bool:
        """False while ingest need not have delivered it: its window can be open, or its facts are not all read."""
        if any(name in self._events.unsure for name in (label.response_id, label.impression_id, label.trigger_id)):
            return False
        return not label.by_window or self.clock.passed_ms(label.label_ms) <= now_ms

    def fires_ms(self, label: Label) -> int:
        """Event time at which the join lets it go: an action that comes before its impression waits for that."""
        return label.label_ms if label.by_window else label.label_ms + self._config.early_ms

    def click_was_refused(self, label: Label, since: Mapping[str, float]) -> bool:
        """There can be no conversion example, because the click example turned out negative. since: labels that came
        behind the cut."""
        name = f"click:{label.impression_id}"
        click = self._produced[name].label if name in self._produced else since.get(name)
        return label.kind == "conversion" and click == 0

    def difference(self, expected: Expected, made: Produced) -> str | None:
        """`late`, `different`, or None."""
        label = expected.label
        said = (made.response_id, made.user, made.item, made.position)
        if said != (label.response_id, self.user_of(label), label.item, label.position):
            return "different"
        if label.label > made.label:
            return "late" if self._came_late(label) else "different"
        if label.label < made.label:
            return "late" if self._by_unnamed(made) else "different"
        return "different" if label.value != made.value and not expected.contested else None

    def misplaced(self, name: str) -> bool:
        """Whether an example that is not expected follows from an action that named only its item.

        It goes to the last impression known when the clock passes it; another may have come later.
        """
        click = self._produced.get(f"click:{name.partition(':')[2]}")
        return self._by_unnamed(self._produced[name]) or (click is not None and self._by_unnamed(click))

    def denied_what_came_late(self, name: str, expected: Mapping[str, Expected]) -> bool:
        """Whether a provisional example that is not expected was made before what it denies was on the broker."""
        said, _, impression = name.partition(":")
        click = expected.get(f"click:{impression}")
        final = click if said == "unclicked" else expected.get(f"conversion:{impression}")
        if said not in ("unclicked", "provisional") or final is None or click is None or not final.label.label:
            return False
        action = self._events.of_user[self.user_of(final.label)][final.label.trigger_id]
        if said == "unclicked":
            return self._passed_before(click.label.impression_ms + self._config.click_elapsed_ms, action)
        return self._passed_before(click.label.label_ms + self._config.elapsed_ms, action)

    def _by_unnamed(self, made: Produced) -> bool:
        return (made.user, made.item, made.trigger_ms) in self._unnamed

    def _came_late(self, label: Label) -> bool:
        """Whether the join can have closed the window, or given the action up, before it read what decides."""
        mine = self._events.of_user[self.user_of(label)]
        action, shown = mine[label.trigger_id], mine[label.impression_id]
        unsure = action.event_id in self._events.unsure or shown.event_id in self._events.unsure
        if not isinstance(action, ActionFact) or unsure:
            return True
        window_ms = self._config.click_window_ms if label.kind == "click" else self._config.attribution_window_ms
        patience_ms = self._config.early_ms if action.impression_id is not None else 0
        return self._passed_before(label.impression_ms + window_ms, action) or self._passed_before(
            action.event_ms + patience_ms, shown
        )

    def _passed_before(self, event_ms: int, fact: EventFact) -> bool:
        return self.clock.passed_ms(event_ms) <= fact.kafka_ms + RACE_MS
