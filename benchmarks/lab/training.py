"""Runs: tiers that learn a stream as the trainer would, graded on what they had not yet learned."""

# N candidates of a batch, n graded impressions.

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.lab.stream import Stream, user_side
from kernels.linear_compress import bind
from ranker.arrays import F32, I64
from ranker.config import LearnerConfig, ModelConfig, TierConfig
from ranker.delayed.policies import final_emissions
from ranker.inputs.features import Featurizer
from ranker.learning.adam import new_adam
from ranker.learning.learner import Learner
from ranker.learning.lessons import Lesson, past_draws
from ranker.learning.taught import Taught
from ranker.learning.tier_batches import PastDraws, tier_batches
from ranker.model.heads import calibrate
from ranker.model.tier import Logits, Tier

Patch = Callable[[Tier], None]
"""Changes a fresh tier in place, before it learns."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    batch: int = 16
    """Requests in a step."""
    late: int = 0
    """Requests that labels come later by than the step after; a multiple of `batch`."""
    at_average_place: bool = False
    """Grade what is predicted for an average place, as in serving, and not for the one where each was shown."""
    as_served: bool = False
    """Learn from the counts of the log that were served, and not from what the catalogue makes of it by then."""
    graded: float = 0.5
    """Share of the stream, its last part, that is graded."""
    learner: LearnerConfig = LearnerConfig()


@dataclass(frozen=True)
class Run:
    """Result of one tier over one stream."""

    tier: str
    p_n: F32
    """Calibrated probabilities of a click, before it was learned; at the position shown or an average one."""
    click_n: F32
    truth_n: F32
    request_n: I64
    step_ms: float
    """Median processor time of a step, of all tiers that learned together."""
    examples_per_s: float
    skewed: float
    """Share of impressions whose counts were others when they were served than when they were learned."""


class _Watched(Learner):
    """Keeps the logits of its last step, which are of weights that had not learned from its labels."""

    logits: Sequence[Logits] = ()
    at_average_place = False

    def _forward(self, lessons: Sequence[Lesson], taught: Sequence[Taught]) -> list[Logits]:
        found = super()._forward(lessons, taught)
        with torch.no_grad():
            self.logits = [self._graded(out, x) for out, x in zip(found, lessons, strict=True)]
        return found

    @torch.no_grad()
    def predicted(self, lessons: Sequence[Lesson]) -> dict[str, Logits]:
        """By tier; nothing is learned."""
        return {x.tier: self._graded(self.tiers[x.tier](x.batch, self.tables, x.position_N), x) for x in lessons}

    def _graded(self, out: Logits, lesson: Lesson) -> Logits:
        if not self.at_average_place:
            return out
        place = self.tiers[lesson.tier].position
        return replace(out, click_N=out.click_N - place.at(lesson.position_N) + place.mean())


def run(
    stream: Stream, model: ModelConfig, settings: Settings, *, seed: int = 0, patch: Patch | None = None
) -> dict[str, Run]:
    """Runs all tiers of the model, each learning from every request; by name. Tiers must be without dropout.

    seed: of the initial weights. Every tier is graded by the forward of its own training step, so that grading costs
    nothing, unless labels come late: no impression is graded by weights that learned from it.
    """
    assert settings.late % settings.batch == 0, "labels are late by whole steps"

    assert all(tier.dropout == 0 for tier in model.tiers), "graded by training's forward: dropout would be graded too"
    learner = _Watched(replace(model, seed=seed), settings.learner, bind("decomposed"))
    learner.at_average_place = settings.at_average_place
    if patch is not None:
        for tier in learner.tiers.values():
            patch(tier)
        _renew(learner, settings.learner)
    featurizer, side = Featurizer(model), user_side(model)
    graded: dict[str, list[F32]] = {tier.name: [] for tier in model.tiers}
    begin = int(stream.requests * (1 - settings.graded)) // settings.batch * settings.batch
    steps_s, served, skewed = [], dict[int, list[Lesson]](), list[float]()

    def lessons_of(first: int) -> list[Lesson]:
        last = min(first + settings.batch, stream.requests)
        return [lesson_of(stream, tier, first, last, featurizer, side, learner) for tier in model.tiers]

    for first in range(0, stream.requests, settings.batch):
        calibrations = {name: tier.calibration.clone() for name, tier in learner.tiers.items()}
        if settings.late:
            served[first] = lessons_of(first)
        predicted = learner.predicted(served.get(first, []))
        if first >= settings.late:
            started, taught = time.process_time(), first - settings.late
            lessons = lessons_of(taught)
            if taught in served:
                as_served = [_with_counts_of(then, now) for then, now in zip(served.pop(taught), lessons, strict=True)]
                skewed.append(_skew(as_served[-1], lessons[-1]))
                lessons = as_served if settings.as_served else lessons
            cut = slice(*stream.candidate_starts[[taught, min(taught + settings.batch, stream.requests)]].tolist())
            report = learner.learn_from(lessons, stream.click_N[cut], stream.conversion_N[cut])
            steps_s.append(time.process_time() - started)
            if not report.applied:
                raise RuntimeError(
                    f"step at request {taught} was not applied: loss {report.loss}, norm {report.grad_norm}"
                )
            if not settings.late:
                predicted = {lesson.tier: out for lesson, out in zip(lessons, learner.logits, strict=True)}
        if first >= begin:
            for name, logits in predicted.items():
                graded[name].append(_predictions(logits, calibrations[name]))
    cost = float(np.median(steps_s)), len(stream.click_N) / stream.requests * settings.batch
    skew = float(np.mean(skewed)) if skewed else 0.0
    return {name: _run_of(stream, begin, name, np.concatenate(parts), cost, skew) for name, parts in graded.items()}


def _run_of(stream: Stream, begin: int, tier: str, p_n: F32, cost: tuple[float, float], skewed: float) -> Run:
    """begin: first request that is graded. cost: seconds of a step, and its examples."""
    from_N, (step_s, examples) = int(stream.candidate_starts[begin]), cost
    return Run(
        tier,
        p_n,
        stream.click_N[from_N:],
        stream.truth_N[from_N:],
        stream.keyed.request_of_N[from_N:],
        1000 * step_s,
        examples / step_s,
        skewed,
    )


def _with_counts_of(then: Lesson, now: Lesson) -> Lesson:
    return replace(now, batch=replace(now.batch, evidence_NSC=then.batch.evidence_NSC))


def _skew(then: Lesson, now: Lesson) -> float:
    counts = then.batch.evidence_NSC, now.batch.evidence_NSC
    if counts[0] is None or counts[1] is None:
        return 0.0
    return float((counts[0] != counts[1]).flatten(1).any(dim=1).float().mean())


def alone(model: ModelConfig, tier: TierConfig) -> ModelConfig:
    """The model with this tier only."""
    return replace(model, tiers=(tier,))


def _renew(learner: Learner, settings: LearnerConfig) -> None:
    """Optimizer and names over the parameters that a patch left; one that several tiers share is named once."""
    named = {f"{t}/{n}": p for t, tier in learner.tiers.items() for n, p in tier.named_parameters()}
    learner.parameters = {n: p for n, p in named.items() if n == next(m for m, q in named.items() if q is p)}
    learner.adam = new_adam(learner.parameters, settings)


def lesson_of(
    stream: Stream,
    tier: TierConfig,
    first: int,
    last: int,
    featurizer: Featurizer,
    side: frozenset[str],
    learner: Learner,
) -> Lesson:
    """Makes the lesson of requests [first, last) for this tier; side: user_side of Stream.batch."""
    draws = None
    if learner.past_pages:
        draws_BP = past_draws([str(request) for request in range(first, last)], learner.past_pages)
        draws = PastDraws(stream.event_ms_R[first:last], int(stream.event_ms_R[0]), draws_BP)
    log = learner.config.max_log_length if draws is not None and tier.log_length else tier.log_length
    learners = [(tier, range(last - first))]
    keyed = stream.batch(first, last, log, side)
    [read] = tier_batches(learner.config, featurizer, learner.tables, keyed, learners, draws)
    cut = slice(int(stream.candidate_starts[first]), int(stream.candidate_starts[last]))
    return Lesson(
        tier=tier.name,
        examples=list(range(last - first)),
        keyed=read.keyed,
        batch=read.batch,
        position_N=torch.from_numpy(stream.position_N[cut]),
        click_N=torch.from_numpy(stream.click_N[cut]),
        click_emission_N=torch.from_numpy(final_emissions(stream.click_N[cut])),
        emission_N=torch.from_numpy(final_emissions(stream.conversion_N[cut])),
        conversion_N=torch.from_numpy(stream.conversion_N[cut]),
        shown_ms_N=np.repeat(
            stream.event_ms_R[first:last], np.bincount(read.keyed.request_of_N, minlength=last - first)
        ),
        past=read.past,
    )


def _predictions(logits: Logits, calibration_H2: torch.Tensor) -> F32:
    logits_NH = torch.stack([logits.click_N, logits.conversion_N], dim=1).detach()
    p_N: F32 = torch.sigmoid(calibrate(calibration_H2, logits_NH)[:, 0]).numpy()
    return p_N
