"""The messages of the public and internal topics. Knows msgspec; knows nothing of Kafka.

Public messages are JSON objects (or MessagePack arrays, see `streams.wire.codec`), internal ones MessagePack arrays.
They evolve by optional fields with defaults, appended at the end; unknown fields are ignored. Ids are strings, times
are integer milliseconds since the Unix epoch, money is in one unit of the caller's choice. Every size is bounded here,
so that a message that decodes is a message that can be handled.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Id = Annotated[str, Meta(min_length=1, max_length=128)]
DerivedId = Annotated[str, Meta(min_length=1, max_length=512)]
"""Made of other ids."""
MAX_TEXT = 256
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Ms = Annotated[int, Meta(ge=0, le=2**43, description="milliseconds since the Unix epoch")]
"""A moment; no duration: the description goes into the public schema."""
EventMs = Annotated[int, Meta(ge=0, le=2**63 - 1, description="milliseconds since the Unix epoch")]
"""Whether such a time can be true is asked of the recipe (`streams.wire.event_time`): it may be in another unit."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
Number = Annotated[float, Meta(ge=-1e12, le=1e12)]
Money = Annotated[float, Meta(ge=0, le=1e9)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Words = Annotated[list[Text], Meta(max_length=64)]

FeatureName = Annotated[str, Meta(min_length=1, max_length=64)]
Features = Annotated[dict[FeatureName, Text | Number | Words], Meta(max_length=64)]
"""A string is a category, a number a dense input, a list of strings a set of categories."""

MAX_CANDIDATES = 2000
MAX_RETURNED = 200

Status = Literal["ok", "fallback", "empty", "error"]


class LogRef(Struct, frozen=True, kw_only=True, array_like=True):
    """Where a user's log stood: everything up to `count` of the log that was created as `generation`."""

    generation: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    count: Count = 0


class ModelVersion(Struct, frozen=True, kw_only=True):
    """Which weights: update `number` of `epoch`, of the configuration with this digest."""

    epoch: Count
    number: Count
    digest: Text = ""


class Candidate(Struct, frozen=True, kw_only=True):
    item: Id
    features: Features = {}
    bid: Money = 1.0


class RankingRequest(Struct, frozen=True, kw_only=True):
    """ranking.requests. Rank these candidates for this user."""

    request_id: Id
    user: Id
    candidates: Annotated[list[Candidate], Meta(max_length=MAX_CANDIDATES)]
    features: Features = {}
    context: Features = {}
    surface: Id = "default"
    event_ms: EventMs | None = None
    """When the request was made; the record's broker timestamp where absent."""
    top_k: Annotated[int, Meta(ge=1, le=MAX_RETURNED)] = 20
    """How many candidates come back, best first."""


class RankedItem(Struct, frozen=True, kw_only=True):
    item: Id
    pctr: Probability | None = None
    pcvr: Probability | None = None
    value: Number | None = None
    drawn: Probability | None = None
    """The pCTR that the ad was ordered by, where new ads get a fair start; `value` is of the prediction."""


class Timings(Struct, frozen=True, kw_only=True):
    """Milliseconds spent on this request's micro-batch, by phase; queue is from broker timestamp to poll."""

    queue: float = 0.0
    decode: float = 0.0
    fetch: float = 0.0
    route: float = 0.0
    score: float = 0.0


class RankingResponse(Struct, frozen=True, kw_only=True):
    """ranking.responses. At least one for each request; the caller uses the first."""

    response_id: Id
    request_id: Id
    user: Text = ""
    status: Status
    reason: Text | None = None
    """Why the status is not `ok`: expired, redis_away, no_model, fault, empty, or what was wrong with the request."""
    items: list[RankedItem] = []
    tier: Text | None = None
    plan: Text | None = None
    model: ModelVersion | None = None
    watermark_ms: Ms | None = None
    """All events up to this time, of every active partition, are in the weights that scored this."""
    event_ms: Ms = 0
    timings: Timings | None = None
    replica: Text = ""


class ServedItem(Struct, frozen=True, kw_only=True, array_like=True):
    item: Id
    features: Features = {}
    bid: Money = 1.0
    pctr: Probability = 0.0
    pcvr: Probability = 0.0
    drawn: Probability | None = None
    """As in RankedItem."""


class Served(Struct, frozen=True, kw_only=True, array_like=True):
    """ranking.served. What scoring saw: the training truth of a response."""

    response_id: Id
    request_id: Id
    user: Id
    surface: Id
    event_ms: Ms
    log: LogRef
    features: Features
    context: Features
    items: list[ServedItem]
    plan: Text
    tier: Text
    model: ModelVersion


class Impression(Struct, frozen=True, kw_only=True):
    """ads.impressions. This item of this response was shown."""

    event_id: Id
    user: Id
    response_id: Id
    item: Id
    position: Annotated[int, Meta(ge=0, lt=MAX_RETURNED)]
    event_ms: EventMs
    surface: Id = "default"


class Conversion(Struct, frozen=True, kw_only=True):
    """ads.conversions. What a user did: a click, a search, a purchase.

    Names the impression it follows, or only the item (then it is matched to the user's last impression of it).
    A search has neither: `item` then holds what was searched, and the event goes to the log alone.
    """

    event_id: Id
    user: Id
    kind: Id
    event_ms: EventMs
    item: Id | None = None
    impression_id: Id | None = None
    value: Money = 0.0
    surface: Id = "default"


class Decision(Struct, frozen=True, kw_only=True):
    """router.decisions. One choice of plan, with all that it was made from."""

    response_id: Id
    user: Id
    event_ms: Ms
    plan: Id
    probabilities: dict[Id, Probability]
    """Probability of every plan, in the state the choice was made in; they sum to 1. That of the chosen one is above
    0."""
    values: dict[Id, Number]
    """Predicted earnings of every plan."""
    costs: dict[Id, Number]
    """Predicted milliseconds of compute of every plan."""
    measured_ms: Number
    """Milliseconds of compute that the chosen one took."""
    price: Number
    """λ: earnings that one millisecond must bring."""
    context: Features
    router_number: Count
    forced: bool = False
    """The plan was not a free choice (deadline, no model): logged, and not learned from."""
    reason: Text | None = None


class Outcome(Struct, frozen=True, kw_only=True):
    """router.outcomes. Something a response earned."""

    outcome_id: DerivedId
    response_id: Id
    user: Id
    kind: Id
    value: Number
    event_ms: Ms


class Reward(Struct, frozen=True, kw_only=True):
    """router.rewards. A decision with what it earned by the end of its reward window."""

    reward_id: DerivedId
    decision: Decision
    earned: Number
    outcomes: Count
    late: bool = False
    """An outcome that came after the window closed: a correction to an earlier reward with the same decision."""


class RouterModel(Struct, frozen=True, kw_only=True):
    """router.model. The value model and the price of compute, numbered and checked."""

    number: Count
    weights: Annotated[bytes, Meta(max_length=4_000_000)]
    checksum: Text
    price: Number
    budget_ms: Number
    spent_ms: Number
    learned: Count
    offsets: dict[str, Count]
    """Next offset of router.rewards by partition: what this model has learned."""
    price_history: Annotated[list[Number], Meta(max_length=256)] = []


class TrainingExample(Struct, frozen=True, kw_only=True, array_like=True):
    """training.examples. One labelled impression (kind `click`) or clicked impression (kind `conversion`).

    Carries its slots and a reference to the log, never the sequence: the trainer reads the log as serving saw it.
    """

    example_id: DerivedId
    kind: Literal["click", "conversion"]
    label: Probability
    value: Money
    response_id: Id
    user: Id
    item: Id
    position: Annotated[int, Meta(ge=0, lt=MAX_RETURNED)]
    surface: Id
    event_ms: Ms
    """Event time of the request, as scoring saw it."""
    log: LogRef
    features: Features
    context: Features
    item_features: Features
    tier: Text
    pctr: Probability
    pcvr: Probability
    """Both probabilities are as served: what the labels grade."""
    model: ModelVersion
    trigger_ms: Ms
    """Broker timestamp of the event that decided the label; 0 where a window's end did."""
    by_window: bool = False
    """The label is negative because its window closed."""
    label_ms: Ms = 0
    """Event time at which the label became known."""
    provisional: bool = False
    """Whether the label, of kind `conversion`, is negative before that is certain: at the click, or once the elapsed
    time passed (the join's `provisional`). The final label follows, in an example of its own."""
    corrects: bool = False
    """A conversion that a provisional example denied."""
    shown_ms: Ms = 0
    """Event time of the impression: from there its windows run."""
