"""Learning: labelled responses in, changed weights out. Grades, then learns; knows nothing of Kafka."""

# B requests, N candidates, K distinct keys, R rows of a table, D embedding width.

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear_compress import Compress
from ranker.arrays import F32, I64
from ranker.config import CROSSES, ITEM, STATISTICS, LearnerConfig, ModelConfig
from ranker.delayed.policies import POLICIES
from ranker.delayed.weights import Targets, targets
from ranker.grades import PRIOR_LABELS, RECENT_LABELS, BaseRate, Compared, LossSums, compare, grade
from ranker.inputs.features import Featurizer
from ranker.inputs.laps import Lap, no_lap
from ranker.inputs.requests import LabelledRequest
from ranker.inputs.slot_keys import first_values, missing_key
from ranker.learning.adagrad import adagrad, rowwise_adagrad
from ranker.learning.adam import new_adam
from ranker.learning.counting import Counter
from ranker.learning.distillation import distillation_loss
from ranker.learning.eviction import Admission
from ranker.learning.lessons import Lesson, make_lessons, served_keys, shown_ms
from ranker.learning.losses import corrected, lesson_loss, with_soft
from ranker.learning.model_copy import ModelCopy
from ranker.learning.pending import PendingChanges
from ranker.learning.taught import Taught, taught_together
from ranker.learning.trained_tables import trained_tables
from ranker.model.heads import CLICK
from ranker.model.init import log_odds
from ranker.model.tier import Logits
from ranker.updates.changes import Changes
from ranker.updates.image import Image, build_tiers, dense_tensors
from ranker.updates.log import Dirty


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """Result of one call of learn. Grades are of predictions made before learning."""

    applied: bool
    """False: nothing changed, because loss or gradients were not finite or no label teaches anything."""
    click: LossSums = LossSums()
    conversion: LossSums = LossSums()
    loss: float = 0.0
    """Mean over labels that are learned, summed over the tiers that learned."""
    grad_norm: float = 0.0
    """Norm of the dense gradients, before the clip."""
    admitted: int = 0
    evicted: int = 0
    """Keys that got, and lost, a row of their own."""


class Learner:
    """All tiers over shared tables. The same calls from the same state give the same bits, on the same machine."""

    def __init__(self, config: ModelConfig, learner: LearnerConfig, compress: Compress) -> None:
        self.config = config
        if POLICIES[learner.conversions].learns_late and not config.learns_late:
            raise ValueError(f"conversions = {learner.conversions!r} needs a model with learns_late = true")
        self.tiers = build_tiers(config, compress)  # first: it refuses what does not fit into memory
        self.dense = dense_tensors(self.tiers)
        self.tables = trained_tables(config)
        self.step = 0
        self.began_ms: int | None = None
        """Event time of the first response learned from: what logs have from before it, they alone have."""
        self._settings = learner
        self.policies = {"click": POLICIES[learner.clicks], "conversion": POLICIES[learner.conversions]}
        self.updates = learner.updates
        self.past_pages = learner.past_pages
        self._featurizer = Featurizer(config)
        self._item_slots = frozenset({s.name for s in config.slots if s.side == "candidate"} | config.hashed.keys())
        self.parameters = {f"{t}/{n}": p for t, tier in self.tiers.items() for n, p in tier.named_parameters()}
        self.adam = new_adam(self.parameters, learner)
        self.adagrad_sums = {
            name: torch.ones_like(w) if name == CROSSES else torch.zeros(len(w))
            for name, w in self.tables.weights.items()
        }
        self.admissions = {
            t.name: Admission(self.tables.key_maps[t.name], t.idle_steps)
            for t in config.every_table
            if t.name in self.tables.weights
        }
        self.pending = PendingChanges(self.tables, learner.updates)
        self.counter = Counter(len(config.statistics), self.policies) if config.statistics else None
        self._missing_S = np.array([missing_key(name) for name in self.tables.catalogue.slots], np.uint64)
        self.click_rate = BaseRate(config.click_prior, PRIOR_LABELS)
        self.conversion_rate = BaseRate(config.conversion_prior, PRIOR_LABELS)
        self.recent_clicks = BaseRate(config.click_prior, PRIOR_LABELS, memory=RECENT_LABELS)
        """Base rate that clicks are predicted towards as far as they are not trusted."""
        self.late_clicks = BaseRate()
        """Base rate, among all clicks, of those that a provisional example denied."""
        self.reference: ModelCopy | None = None
        """Model whose predictions `compare` sets beside those served."""
        self.elder: ModelCopy | None = None
        """The reference before it, which is asked besides."""
        self._frozen: ModelCopy | None = None
        self.lap: Lap = no_lap
        """Told of each phase of a step when it ends: "lessons", "grade", "forward", "backward", "step"."""

    def freeze(self) -> None:
        """Keep a copy of the model as it is now, to be graded beside the served predictions from here on."""
        self._frozen = self.copy()

    def copy(self, into: ModelCopy | None = None) -> ModelCopy:
        """The model as it is now. into: an earlier copy that nobody needs any more."""
        if into is None:
            return ModelCopy.of(self.config, self.tiers, self.tables)
        into.copy_from(self.tiers, self.tables)
        return into

    def learn(self, examples: Sequence[LabelledRequest]) -> StepReport:
        """Grade the predictions, then take one step.

        Each tier's loss is the mean over the batch's labels that its policies learn; shared rows learn from the
        heaviest tier that learns from a response. Leaves everything as it was, optimizer state included, if loss or
        gradients are not finite.
        """
        taught = [example for example in examples if self._learned(*example.emissions())]
        before = self.began_ms
        if before is None and taught:
            self.began_ms = min(example.request.event_ms for example in taught)
        lessons = make_lessons(
            self.config,
            self._featurizer,
            self.tables,
            taught,
            self._settings.dearer_share,
            self.past_pages,
            self.began_ms or 0,
        )
        self.lap("lessons")
        graded = self._grade(examples)
        self.lap("grade")
        report = self.learn_from(lessons, _joined(examples, "click_N"), _joined(examples, "conversion_N"))
        if not report.applied:
            self.began_ms = before
        return replace(report, click=graded.click, conversion=graded.conversion)

    def compare(self, examples: Sequence[LabelledRequest]) -> dict[str, Compared]:
        """Labels by kind, beside what was served and what the references would have; {} without a reference."""
        if self.reference is None:
            return {}
        click_N, conversion_N, pctr_N, pcvr_N = (_joined(examples, name) for name in _GRADED)
        (pctr, pcvr), (elder_pctr, elder_pcvr) = self._predicted(examples, self.reference, self.elder or self.reference)
        shown_ms_N = np.concatenate([shown_ms(e) for e in examples] or [np.empty(0, np.int64)])
        return {
            "click": compare(click_N, pctr_N, pctr, elder_pctr, shown_ms_N),
            "conversion": compare(conversion_N, pcvr_N, pcvr, elder_pcvr, shown_ms_N),
        }

    def learn_from(self, lessons: Sequence[Lesson], click_N: F32, conversion_N: F32) -> StepReport:
        """The step of `learn`, without its grades; labels as in LabelledRequest, each once, whatever the lessons."""
        settings = self._settings
        # The cheapest tier's lesson holds every response.
        labels = self._learned(lessons[0].click_emission_N.numpy(), lessons[0].emission_N.numpy()) if lessons else 0
        if labels == 0:
            self._observe_rates(click_N, conversion_N)
            return StepReport(applied=False)
        taught = taught_together(self.tables, lessons, self._item_slots)
        logits = self._forward(lessons, taught)
        learned = [self._targets(out, lesson) for out, lesson in zip(logits, lessons, strict=True)]
        losses = [lesson_loss(out, x, *of, settings) for out, x, of in zip(logits, lessons, learned, strict=True)]
        losses.extend(self._past_loss(x, by) for x, by in zip(lessons, taught, strict=True) if x.past is not None)
        losses.append(settings.distillation_weight * distillation_loss(self.config, lessons, logits))
        loss = torch.stack(losses).sum() / labels
        self.lap("forward")
        self._zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.lap("backward")
        # A row's step must not depend on how many examples happen to share the batch: rows take the sum over labels.
        rows = [(table, rows_K, g_KD * labels) for table, rows_K, g_KD in self.tables.gradients()]
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        loss = loss.detach()
        finite = torch.stack([loss, norm, *(g_KD.sum() for _, _, g_KD in rows)]).isfinite().all()
        if not finite:
            self._zero_grad()
            return StepReport(applied=False, loss=float(loss), grad_norm=float(norm))
        self._take_step(rows, norm, labels)
        admitted, evicted = self._admit(lessons)
        self._learn_catalogue(lessons[0])
        if self.counter is not None:
            worth_N = self.tiers[lessons[0].tier].position.worth(lessons[0].position_N).numpy()
            self.pending.touch(STATISTICS, self.counter.count(lessons[0], worth_N, self.tables.weights[STATISTICS]))
        before = log_odds(self.recent_clicks.mean)
        self.late_clicks.observe(corrected(lessons[0].click_emission_N))
        self._observe_rates(click_N, conversion_N)
        self._start_from_base_rates()
        now = log_odds(self.recent_clicks.mean)
        for out, lesson, (clicks, conversions) in zip(logits, lessons, learned, strict=True):
            self.tiers[lesson.tier].observe(
                out,
                lesson.position_N,
                torch.stack([clicks.label_N, conversions.label_N], dim=1),
                torch.stack([clicks.weight_N, conversions.weight_N], dim=1),
                means=(before, now) if settings.clicks == "wait" else None,
            )
        self.step += 1
        self.lap("step")
        return StepReport(applied=True, loss=float(loss), grad_norm=float(norm), admitted=admitted, evicted=evicted)

    def take_changes(self, published: Image | None = None) -> Changes:
        """What changed since the last call, in absolute values as they travel.

        published: what replicas hold; what is near enough to it, or beyond the budget, is left for a later call.
        Without it all that changed is taken, and every dense tensor.
        """
        return self.pending.take(self.dense, published)

    def mark_all(self) -> None:
        """Have the next take_changes include every row: for a whole model."""
        for table, weights in self.tables.weights.items():
            self.pending.touch(table, np.arange(len(weights)))
        self.pending.touch_catalogue(np.arange(len(self.tables.catalogue.entry_RS)))

    def mark_dirty(self, dirty: Dirty) -> None:
        """Have the next take_changes include what the log changed while this learner did not look."""
        self.pending.mark_dirty(dirty)

    def _predicted(self, examples: Sequence[LabelledRequest], *models: ModelCopy) -> list[tuple[F32, F32]]:
        """pCTR and pCVR [N] as each of the models would have served them; a model that is named twice is asked once."""
        served, sizes = served_keys(self.config, self._featurizer, examples), [len(e.click_N) for e in examples]
        found = {id(model): model.predict(self._featurizer, sizes, served) for model in models}
        return [found[id(model)] for model in models]

    def _learned(self, clicks: I64, conversions: I64) -> int:
        """How many of these examples, of Emission, count under the policies: a final negative does not where it was
        learned when it was provisional."""
        learned = self.policies["click"].learns(clicks), self.policies["conversion"].learns(conversions)
        return sum(int(learned_N.sum()) for learned_N in learned)

    def _observe_rates(self, click_N: F32, conversion_N: F32) -> None:
        self.click_rate.observe(click_N)
        self.recent_clicks.observe(click_N)
        self.conversion_rate.observe(conversion_N)

    def _forward(self, lessons: Sequence[Lesson], taught: Sequence[Taught]) -> list[Logits]:
        """Dropout's draws follow from the number of the step, so that the same input gives the same step."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.step)
            return [
                self.tiers[x.tier](x.batch, embedder, x.position_N) for x, embedder in zip(lessons, taught, strict=True)
            ]

    def _past_loss(self, lesson: Lesson, taught: Taught) -> Tensor:
        past = lesson.past
        assert past is not None
        logits_M = self.tiers[lesson.tier].past_logits(past, taught)
        return self._settings.past_weight * F.binary_cross_entropy_with_logits(logits_M, past.click_M, reduction="sum")

    def _targets(self, logits: Logits, lesson: Lesson) -> tuple[Targets, Targets]:
        """What is to be learned from the click and from the conversion examples; a soft label stays as it was given."""
        late_clicks = self.late_clicks.mean
        late_N = torch.zeros_like(logits.conversion_N) if logits.late_N is None else torch.sigmoid(logits.late_N)
        clicks, conversions = (
            targets(policy, emission_N, torch.sigmoid(logit_N), late_N)
            for policy, emission_N, logit_N, late_N in (
                (self._settings.clicks, lesson.click_emission_N, logits.click_N, torch.full_like(late_N, late_clicks)),
                (self._settings.conversions, lesson.emission_N, logits.conversion_N, late_N),
            )
        )
        return with_soft(clicks, lesson.click_N), with_soft(conversions, lesson.conversion_N)

    def _grade(self, examples: Sequence[LabelledRequest]) -> StepReport:
        click_N, conversion_N, pctr_N, pcvr_N = (_joined(examples, name) for name in _GRADED)
        frozen = None
        if self._frozen is not None:
            [frozen] = self._predicted(examples, self._frozen)
        return StepReport(
            applied=False,
            click=grade(click_N, pctr_N, frozen[0] if frozen is not None else None, self.click_rate),
            conversion=grade(conversion_N, pcvr_N, frozen[1] if frozen is not None else None, self.conversion_rate),
        )

    def _take_step(self, rows: list[tuple[str, Tensor, Tensor]], norm: Tensor, labels: int) -> None:
        said = self._said_by_a_label()
        for group in self.adam.param_groups:
            group["lr"] = group["full_rate"] * math.sqrt(min(1.0, labels * said / FULL_STEP))
        # Of a mean, a label among few would weigh more than one among many: than those that come together, as what was
        # not clicked does.
        scale = (self._settings.max_grad_norm / (norm + 1e-6)).clamp(max=1.0) * min(1.0, labels / FULL_STEP)
        torch._foreach_mul_([p.grad for p in self.parameters.values() if p.grad is not None], scale)
        self.adam.step()
        for table, rows_K, gradients_KD in rows:
            held = self.tables.weights[table], self.adagrad_sums[table]
            if table == CROSSES:
                adagrad(*held, rows_K, gradients_KD, rate=self._settings.cross_rate)
            else:
                rowwise_adagrad(*held, rows_K, gradients_KD, rate=self._settings.row_rate * said)
            self.pending.touch(table, rows_K.numpy())
        self._zero_grad()

    def _said_by_a_label(self) -> float:
        """Returns the variance of a click label, as a share of the largest there is: where clicks are rare, little."""
        rate = self.click_rate.mean
        return 4 * rate * (1 - rate)

    def _admit(self, lessons: Sequence[Lesson]) -> tuple[int, int]:
        """Give rows to the keys that this step met for the first time.

        It met them as serving does, in the tail, and taught the tail what an unknown key is like. A new row starts
        where its tail now is, with a fresh optimizer state: so the first example is not lost, the next ones count in
        full, and a step that is not applied has nothing to take back. A row that is freed is as if it had never been.
        """
        admitted = evicted = 0
        for table, admission in self.admissions.items():
            if not admission.key_map.num_rows:
                continue
            keys = [
                slot.keys_T
                for lesson in lessons
                for name, slot in lesson.keyed.slots.items()
                if self._featurizer.table_of(name) == table
            ]
            new = admission.admit(np.unique(np.concatenate(keys)), self.step)
            weights, rows_K = self.tables.weights[table], torch.from_numpy(new.rows_K)
            freed_V = torch.from_numpy(new.freed_V)
            weights[freed_V], self.adagrad_sums[table][freed_V] = 0, 0
            if table == self.tables.catalogue.table:
                self.tables.catalogue.clear(new.freed_V)
            weights[rows_K] = weights[torch.from_numpy(self._featurizer.tail(table, new.keys_K))]
            self.pending.touch(table, new.rows_K)
            self.pending.evict(table, new.evicted_V)
            admitted += len(new.keys_K)
            evicted += len(new.evicted_V)
        return admitted, evicted

    def _learn_catalogue(self, lesson: Lesson) -> None:
        """Takes the candidates' values into the catalogue, after the step: a request does not know of itself. What is
        missing in a candidate leaves the entry as it was."""
        catalogue = self.tables.catalogue
        if not catalogue.slots:
            return
        rows = self.tables.key_maps[catalogue.table].find(first_values(lesson.keyed.slots[ITEM]))
        entry_NS = np.stack([first_values(lesson.keyed.slots[name]) for name in catalogue.slots], axis=1)
        entry_NS[entry_NS == self._missing_S] = 0
        self.pending.touch_catalogue(catalogue.learn(rows[rows >= 0], entry_NS[rows >= 0]))

    @torch.no_grad()
    def _start_from_base_rates(self) -> None:
        """While labels are few, each head's bias is the base rate's logit, and what evidence starts from too: rows and
        layers then need not bend for it, which would spoil what they could learn (a batch's own mean is the strongest
        signal of the first steps). Where labels are learned before they are final, the first final ones are all
        positive: such a head starts from its prior."""
        rates = (self.click_rate, self.conversion_rate)
        known = (self._settings.clicks == "wait", POLICIES[self._settings.conversions].provisional == "none")
        for head, rate in enumerate(rates):
            if known[head] and rate.count < _FEW_LABELS:
                mean = log_odds(rate.mean)
                for tier in self.tiers.values():
                    tier.heads.out_bias[head] = mean
                    if head == CLICK and tier.evidence is not None:
                        tier.evidence.bias.fill_(mean)

    def _zero_grad(self) -> None:
        self.adam.zero_grad(set_to_none=True)
        self.tables.zero_grad()


FULL_STEP = 128
"""Labels of a step that Adam's rates are meant for, where one in two is a click. With fewer, or rarer clicks, gradients
are noisier, and rates fall with the square root of what the labels say (Malladi et al., 2022, "On the SDEs and Scaling
Rules for Adaptive Gradient Algorithms")."""
_FEW_LABELS = 500

_GRADED = ("click_N", "conversion_N", "pctr_N", "pcvr_N")


def _joined(examples: Sequence[LabelledRequest], name: str) -> F32:
    return np.concatenate([getattr(e, name) for e in examples] or [np.empty(0, np.float32)])
