"""A small model, and requests and labels for it; seeded."""

from collections.abc import Sequence

import numpy as np

from kernels.linear_compress import bind
from ranker.config import HOUR, ITEM, SURFACE, USER, LearnerConfig, ModelConfig, Slot, TableConfig, TierConfig
from ranker.inputs.features import Featurizer
from ranker.inputs.hashing import hash64
from ranker.inputs.requests import LOG_DTYPE, LabelledRequest, ScoringRequest
from ranker.learning.learner import Learner
from ranker.learning.lessons import Lesson, make_lessons
from ranker.updates.log import Position
from ranker.updates.record import Update, UpdateHeader

COMPRESS = bind("decomposed")
EVENT_MS = 1_700_000_000_000


def tiny_model(
    *, rows: int = 256, tail_rows: int = 8, seed: int = 0, evidence: tuple[str, ...] = ("item", "category")
) -> ModelConfig:
    return ModelConfig(
        name="tiny",
        slots=(
            Slot(name=USER, side="user"),
            Slot(name="interests", side="user"),
            Slot(name="age", side="user", kind="numeric"),
            Slot(name=SURFACE, side="context"),
            Slot(name=HOUR, side="context"),
            Slot(name=ITEM, side="candidate", table="items"),
            Slot(name="category", side="candidate"),
            Slot(name="price", side="candidate", kind="numeric"),
        ),
        tables=(
            TableConfig(name="items", rows=rows, tail_rows=tail_rows),
            TableConfig(name="shared", rows=rows, tail_rows=tail_rows),
        ),
        tiers=(
            TierConfig(
                name="light", log_length=4, read_length=4, user_tokens=4, fm_tokens=2, compressed_tokens=2, hidden=16
            ),
            TierConfig(
                name="heavy",
                layers=2,
                log_length=8,
                read_length=8,
                user_tokens=4,
                fm_tokens=2,
                compressed_tokens=2,
                hidden=16,
            ),
        ),
        width=8,
        seed=seed,
        evidence=evidence,
        crosses=(("category",), ("interests", "category"), (HOUR, "category", ITEM)),
        cross_rows=64,
    )


def log_of(*items: str, before_s: int = 60) -> np.ndarray:
    log = np.zeros(len(items), LOG_DTYPE)
    log["item"] = [hash64(item) for item in items]
    log["time_s"] = EVENT_MS // 1000 - before_s * np.arange(len(items), 0, -1)
    log["action"] = 1
    return log


def request(user: str = "u", items: Sequence[str] = ("a", "b"), log: Sequence[str] = ()) -> ScoringRequest:
    return ScoringRequest(
        user=user,
        event_ms=EVENT_MS,
        items=list(items),
        item_features=[{"category": f"c{hash64(item) % 3}", "price": 2.0} for item in items],
        features={"interests": ["x", "y"], "age": 30.0},
        surface="feed",
        log=log_of(*log),
    )


def labelled(
    number: int,
    scoring: ScoringRequest,
    clicks: Sequence[float],
    conversions: Sequence[float] | None = None,
    tier: str = "light",
) -> LabelledRequest:
    n = len(scoring.items)
    return LabelledRequest(
        request=scoring,
        response_id=f"response-{number}",
        tier=tier,
        click_N=np.array(clicks, np.float32),
        conversion_N=np.full(n, np.nan, np.float32) if conversions is None else np.array(conversions, np.float32),
        position_N=np.arange(n),
        pctr_N=np.full(n, 0.25, np.float32),
        pcvr_N=np.full(n, 0.1, np.float32),
        value_N=np.ones(n, np.float32),
    )


def traffic(seed: int, batches: int, *, items: int = 40, users: int = 10) -> list[list[LabelledRequest]]:
    """Random responses of both tiers with logs, clicks and conversions."""
    rng = np.random.default_rng(seed)
    out = []
    for batch in range(batches):
        examples = []
        for i in range(3):
            shown = [f"i{k}" for k in rng.integers(0, items, 2)]
            log = [f"i{k}" for k in rng.integers(0, items, rng.integers(0, 12))]
            clicks = rng.integers(0, 2, 2).astype(np.float32)
            conversions = np.where(clicks > 0, rng.integers(0, 2, 2), np.nan)
            examples.append(
                labelled(
                    batch * 3 + i,
                    request(f"u{rng.integers(0, users)}", shown, log),
                    clicks.tolist(),
                    conversions.tolist(),
                    tier="heavy" if rng.random() < 0.3 else "light",
                )
            )
        out.append(examples)
    return out


def tiny_learner(config: ModelConfig, **settings: float) -> Learner:
    return Learner(config, LearnerConfig(**settings), COMPRESS)  # type: ignore[arg-type]


def update_of(learner: Learner, number: int, epoch: int = 1) -> Update:
    """What the learner has to publish, as update `number`; the first of an epoch starts a new model."""
    header = UpdateHeader(
        epoch=epoch,
        number=number,
        previous=number - 1,
        digest=learner.config.digest,
        trainer="t",
        reset=number == 1,
        offsets={"0": 10 * number},
        watermark_ms=EVENT_MS + number,
    )
    return Update(header, learner.take_changes())


def at(number: int, epoch: int = 1) -> Position:
    return Position(epoch=epoch, number=number, trainer="t", offset=number)


def lessons_of(learner: Learner, examples: Sequence[LabelledRequest]) -> list[Lesson]:
    """Lessons of the tiers that served the examples and of the cheaper ones, without past pages."""
    return make_lessons(learner.config, Featurizer(learner.config), learner.tables, examples, 0.0)
