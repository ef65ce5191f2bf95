"""The join in Redis against the plain one, on random histories: any order of arrival, redeliveries, sweeps, crashes."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_store import (
    ActionFact,
    Fact,
    ImpressionFact,
    JoinConfig,
    Joiner,
    Label,
    LogConfig,
    Reply,
    Role,
    example_id,
)
from feature_store.keys import bucket_of
from feature_store.offline import Expected, expected_labels
from tests.feature_store.facts import T0, action, impression, served
from tests.feature_store.servers import Server

CONFIGS = [
    JoinConfig(
        click_window_ms=20,
        click_elapsed_ms=click_elapsed_ms,
        attribution_window_ms=60,
        early_ms=10,
        skew_ms=skew_ms,
        state_ttl_s=1000,
        provisional=said,
        elapsed_ms=15,
    )
    for said in ("none", "click", "elapsed")
    for click_elapsed_ms in (0, 7)
    for skew_ms in (15, 1000)
]
END = 200
USERS = ("u", "v")
BUCKETS = [bucket_of(user) for user in USERS]
RESPONSES = ("r1", "r2", "r3")
ITEMS = ("a", "b")
times = st.integers(0, 80)


@st.composite
def histories(draw: st.DrawFn) -> list[Fact]:
    """Facts of two users, in order of event time; ids of events are unique, all else collides often."""
    facts: list[Fact] = []
    for user in USERS:
        facts += [
            served(f"{user}-{response}", items=items, at=draw(times), user=user)
            for response in draw(st.lists(st.sampled_from(RESPONSES), unique=True))
            for items in [draw(st.sampled_from([ITEMS, ("a",)]))]
        ]
        shown = draw(st.lists(st.tuples(st.sampled_from(RESPONSES), st.sampled_from(ITEMS), times), max_size=6))
        facts += [
            impression(f"{user}-i{n}", item=item, response=f"{user}-{response}", at=at, user=user, position=n)
            for n, (response, item, at) in enumerate(shown)
        ]
        roles: st.SearchStrategy[Role] = st.sampled_from(["click", "click", "conversion", "log"])
        acts = draw(st.lists(st.tuples(roles, st.integers(0, 7), st.booleans(), times), max_size=8))
        facts += [_act(user, n, role, of, named, at) for n, (role, of, named, at) in enumerate(acts)]
    return sorted(facts, key=lambda fact: fact.event_ms)


def _act(user: str, number: int, role: Role, of: int, named: bool, at: int) -> ActionFact:
    names, item = (f"{user}-i{of}", None) if named else (None, ITEMS[of % 2])
    return action(f"{user}-x{number}", role, names=names, item=item, at=at, value=float(number), user=user)


@st.composite
def deliveries(draw: st.DrawFn) -> list[Fact]:
    """A history as it arrives: out of order, and with some facts delivered again."""
    history = draw(histories())
    delays = st.sampled_from([0, 0, 3, 15, 1000])
    arrival = [(fact.event_ms + draw(delays), n) for n, fact in enumerate(history)]
    again = [(fact.event_ms + draw(delays), n) for n, fact in enumerate(history) if draw(st.integers(0, 3)) == 0]
    return [history[n] for _, n in sorted([*arrival, *again])]


class Run:
    """Applies, sweeps and crashes; every label that comes out more than once must be the same each time."""

    def __init__(self, server: Server, tags: int, config: JoinConfig) -> None:
        server.redis.flushall()
        self.join = Joiner(server.redis, LogConfig(length=32, slack=8, tags=tags), config)
        self.labels: dict[str, Label] = {}
        self.replies: dict[Fact, Reply] = {}

    def take(self, labels: tuple[Label, ...]) -> None:
        for label in labels:
            assert self.labels.setdefault(example_id(label), label) == label

    def apply(self, facts: list[Fact], *, same_replies: bool) -> None:
        for fact, reply in zip(facts, self.join.apply(facts, {}), strict=True):
            self.take(reply.labels)
            first = self.replies.setdefault(fact, reply)
            if same_replies and first is not reply:
                assert reply == replace(first, stored=False)

    def sweep(self, now: int, *, settle: bool) -> None:
        """Without settle: a crash after the labels were produced."""
        while closed := self.join.sweep(T0 + now, limit=5, buckets=BUCKETS):
            for one in closed:
                self.take(one.labels)
            if not settle:
                return
            self.join.settle(closed)


def clock(undelivered: list[Fact]) -> int:
    """No fact is late: the clock stands before all that is to come (served records may come at any time)."""
    to_come = [fact.event_ms for fact in undelivered if isinstance(fact, ImpressionFact | ActionFact)]
    return min(to_come, default=T0 + END) - 1 - T0


def agree(expected: Expected, label: Label) -> bool:
    if not expected.contested:
        return label == expected.label
    ours, theirs = (
        replace(one, trigger_id="", trigger_kafka_ms=0, label_ms=0, value=0, corrects=False)
        for one in (label, expected.label)
    )
    return ours == theirs


def check(run: Run, expected: dict[str, Expected]) -> None:
    assert run.labels.keys() <= expected.keys()
    assert {name for name, one in expected.items() if one.certain} <= run.labels.keys()
    for name, label in run.labels.items():
        assert agree(expected[name], label), (expected[name], label)
        if label.label:
            denied = "unclicked" if label.kind == "click" else "provisional"
            assert label.corrects == (f"{denied}:{label.impression_id}" in run.labels)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arrived=deliveries(), data=st.data(), tags=st.sampled_from([1, 64]), config=st.sampled_from(CONFIGS))
def test_any_order_of_arrival_gives_the_labels_of_the_plain_join(
    server: Server, arrived: list[Fact], data: st.DataObject, tags: int, config: JoinConfig
) -> None:
    run = Run(server, tags, config)
    at = 0
    while at < len(arrived):
        size = data.draw(st.integers(1, 6))
        run.apply(arrived[at : at + size], same_replies=tags == 64)
        at += size
        if data.draw(st.booleans()):
            delivered = set(arrived[:at])
            now = clock([fact for fact in arrived[at:] if fact not in delivered])
            run.sweep(now, settle=data.draw(st.booleans()))
    run.sweep(END, settle=True)
    expected = expected_labels(arrived, config, T0 + END)
    check(run, expected)
    names = set(run.labels)
    run.apply(arrived, same_replies=tags == 64)
    assert run.labels.keys() == names
