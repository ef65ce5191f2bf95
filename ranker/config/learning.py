"""How a model is learned, judged and sent: rates, bounds, encodings. None of it changes what the model is."""

import math
from dataclasses import dataclass, field
from typing import Literal

from ranker.delayed.policies import POLICIES, ClickPolicyName, PolicyName

Encoding = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateConfig:
    """What of the weights goes into an update, and in what form.

    What an update leaves out goes into a later one: each is measured against what replicas hold, so nothing is lost
    for good, and a full update follows at the latest after `full_every`.
    """

    rows: Encoding = "bfloat16"
    dense: Encoding = "bfloat16"
    """Encoding of tensors of more than 256 values; smaller ones (norms, biases, calibration) are cheap and delicate:
    float32."""
    tensors: dict[str, Encoding] = field(default_factory=dict)
    """Encodings of single tensors, as measured: by table, or by tier and name ("light/heads.user.weight")."""
    moved: float = 0.01
    """A row or a dense tensor goes out once it is further from what replicas hold than this share of its norm."""
    row_budget: int | None = None
    """Bytes of an update for rows: the furthest from what replicas hold go first. Rows of items with a new catalogue
    entry go besides. None: all that moved."""
    full_every: int = 500
    """Every this many updates, and at an epoch's start, all that changed is sent: no budget and no threshold."""

    def __post_init__(self) -> None:
        if not self.moved >= 0 or self.full_every < 1 or (self.row_budget is not None and self.row_budget < 1):
            raise ValueError(
                "updates need moved >= 0, full_every >= 1 and row_budget >= 1 or none, "
                f"got {self.moved}, {self.full_every}, {self.row_budget}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """What may be published, and what may be learned from (ranker/gate/checks.py)."""

    held_out: float = 0.02
    """Share of responses, by hash, that are never trained on."""
    held_out_window: int = 16
    """Held-out responses that judge an update: the newest that one tier served; the tiers take turns."""
    held_out_jump: float = 0.25
    """Most that a tier's held-out loss may rise by from one turn to the next, as a share of it;
    `held_out_nats` come on top."""
    held_out_nats: float = 2.0
    """Nats that it may rise by besides: where few are clicked, the loss is small and any step's share of it large."""
    max_change: float = 0.2
    """Most that an update may change a dense tensor of more than 256 values by: the root mean square over them."""
    max_row_value: float = 1_000.0
    worse_tolerance: float = 0.05
    """How much worse than the reference what is served may be for long, as a share of the loss."""
    strange_tolerance: float = 0.15
    """How much more than expected the reference may lose to drift, as a share of the loss."""
    labels_between_false_alarms: float = 1e7
    reference_labels: int = 10_000
    """Labels of a kind that the reference must have learned from before labels of that kind are judged by it; and click
    labels that the model must have learned from before held-out responses judge its updates."""
    reopen_labels: int = 500
    """Labels that must look right after a breach before any is learned from again."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1 or self.held_out_window < 1:
            raise ValueError(
                f"held_out must be in [0, 1) and held_out_window >= 1, got {self.held_out}, {self.held_out_window}"
            )
        bounds = (self.max_change, self.max_row_value, self.held_out_jump, self.held_out_nats)
        if not all(bound > 0 for bound in bounds) or not self.labels_between_false_alarms > 1:
            raise ValueError(f"bounds must be > 0 and labels_between_false_alarms > 1, got {self}")
        if min(self.reference_labels, self.reopen_labels) < 1:
            raise ValueError(f"reference_labels and reopen_labels must be >= 1, got {self}")
        if not (self.worse_tolerance >= 0 and self.strange_tolerance >= 0):
            raise ValueError(f"tolerances must be >= 0, got {self.worse_tolerance}, {self.strange_tolerance}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    dense_rate: float = 1e-3
    """Learning rate of Adam, for dense weights."""
    plain_rate: float = 1e-2
    """Learning rate of Adam for what reads counts (evidence, positions, biases): few weights that are soon known."""
    row_rate: float = 0.3
    """Learning rate of row-wise Adagrad, for embedding rows."""
    cross_rate: float = 0.05
    """Learning rate of Adagrad, for the weights of crosses."""
    past_pages: int = 8
    """Past pages of each response's log to learn from (ranker/inputs/past.py)."""
    past_weight: float = 1.0
    """Weight of a past page's label beside a click label."""
    max_grad_norm: float = 10.0
    """Largest norm of all dense gradients together; they are clipped to it. Rows need no clip: row-wise Adagrad bounds
    each step by row_rate · √width."""
    dearer_share: float = 0.25
    """Share of the responses of cheaper tiers that a dearer tier learns from."""
    conversion_weight: float = 1.0
    """Weight of a conversion label beside a click label."""
    clicks: ClickPolicyName = "wait"
    conversions: PolicyName = "wait"
    """How clicks, and conversions, that come late are learned (ranker/delayed/policies.py)."""
    distillation_weight: float = 1.0
    """Weight of the heaviest tier's scores beside a label, for the auxiliary heads of the tiers that are distilled.
    0: nothing is learned from them."""
    updates: UpdateConfig = field(default_factory=UpdateConfig)

    def __post_init__(self) -> None:
        rates = (
            self.dense_rate,
            self.plain_rate,
            self.row_rate,
            self.cross_rate,
            self.past_weight,
            self.conversion_weight,
        )
        if not all(0 < rate < math.inf for rate in rates) or not self.max_grad_norm > 0:
            raise ValueError(
                f"rates, norm and weights must be > 0, all but the norm finite, got {', '.join(map(str, rates))} and "
                f"max_grad_norm {self.max_grad_norm}"
            )
        if not 0 <= self.distillation_weight < math.inf:
            raise ValueError(f"distillation_weight must be >= 0 and finite, got {self.distillation_weight}")
        if not 0 <= self.dearer_share <= 1 or not 0 <= self.past_pages <= 1_024:
            raise ValueError(
                f"dearer_share must be in [0, 1] and past_pages 0 to 1024, got {self.dearer_share}, {self.past_pages}"
            )
        if self.clicks not in ("wait", "es_dfm"):
            raise ValueError(f"clicks must be wait or es_dfm, got {self.clicks!r}")
        if self.conversions not in POLICIES:
            raise ValueError(f"conversions must be one of {', '.join(POLICIES)}, got {self.conversions!r}")
