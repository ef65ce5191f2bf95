"""Requests in, answers out: fetch, route, score, order. Knows Redis and the engine; knows nothing of Kafka.

A micro-batch goes through each phase as a whole, in one thread. Whatever keeps a request from being scored makes it a
flagged fallback: its candidates as they were sent, without probabilities.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt
from redis.exceptions import RedisError

from feature_store.log import LogSlice, LogWant, UserLog
from ranker.arrays import F32
from ranker.engine import Engine, NotReady, Scores
from ranker.inputs.requests import ScoringRequest
from streams.config.recipe import Value
from streams.runtime.outage import Outage
from streams.runtime.redis_client import reason_of
from streams.runtime.sparing import Sparing
from streams.wire.messages import Decision, ModelVersion, RankingResponse, Served, Status, Timings
from streams.workers.rank import answers
from streams.workers.rank.exploration import drawn_probabilities, normal_draws
from streams.workers.rank.intake import Work
from streams.workers.rank.routing import Routed, Router

log = logging.getLogger(__name__)

VALUES: dict[Value, Callable[[F32, F32, F32], F32]] = {
    "bid*pctr": lambda bid, pctr, pcvr: bid * pctr,
    "bid*pctr*pcvr": lambda bid, pctr, pcvr: bid * pctr * pcvr,
    "pctr": lambda bid, pctr, pcvr: pctr,
}
"""What candidates are ordered by."""


@dataclass(frozen=True, slots=True)
class Answer:
    work: Work
    response: RankingResponse
    served: Served | None = None
    decision: Decision | None = None


@dataclass(slots=True)
class _Job:
    """A request on its way through the phases."""

    work: Work
    response_id: str
    log: LogSlice
    routed: Routed
    scoring: ScoringRequest
    bids: F32
    pctr: F32 = field(init=False)
    pcvr: F32 = field(init=False)
    drawn: F32 = field(init=False)
    """pCTR that candidates are ordered by."""
    order: npt.NDArray[np.int64] = field(init=False)
    """Candidates, best first."""
    spent_ms: float = 0.0


class Ranking:
    """Answers micro-batches. `load` is the share of time the process is busy, for the router."""

    def __init__(
        self,
        *,
        engine: Engine,
        user_log: UserLog,
        router: Router,
        value: Value,
        thompson_clicks: float | None = None,
        log_length: int,
        replica: str,
        compute_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """compute_clock: seconds of compute; what a plan costs must not depend on what else the machine does."""
        self._engine = engine
        self._user_log = user_log
        self._router = router
        self._value = VALUES[value]
        self._thompson_clicks = thompson_clicks
        self._log_length = log_length
        self._replica = replica
        self._compute_clock = compute_clock
        self._outage = Outage("redis", "requests get fallbacks")
        self._said = Sparing()
        self.load = 0.0

    def _lap(self, phase: str) -> None:
        self._engine.lap(phase)

    def answer(self, works: Sequence[Work], *, decode_ms: float = 0.0) -> list[Answer]:
        """One answer for each, in their order."""
        polled_ms = time.time() * 1000
        by_place: dict[int, Answer] = {}
        open_works: list[tuple[int, Work]] = []
        for place, work in enumerate(works):
            if not work.request.candidates:
                by_place[place] = self._unranked(work, "empty", "no candidates")
            elif work.expired(polled_ms):
                by_place[place] = self._unranked(work, "fallback", "expired")
            elif self._engine.position is None:
                by_place[place] = self._unranked(work, "fallback", "no_model")
            else:
                open_works.append((place, work))
        ranked = self._rank([work for _, work in open_works], decode_ms)
        by_place |= {place: answer for (place, _), answer in zip(open_works, ranked, strict=True)}
        return [by_place[place] for place in range(len(works))]

    def _rank(self, works: list[Work], decode_ms: float) -> list[Answer]:
        if not works:
            return []
        marks = [time.perf_counter()]
        try:
            slices = self._user_log.read([LogWant(w.request.user, self._log_length) for w in works])
        except RedisError as error:
            self._outage.failed(*reason_of(error))
            return [self._unranked(work, "fallback", "redis_away") for work in works]
        self._outage.worked()
        self._lap("redis")
        marks.append(time.perf_counter())
        jobs = self._route_all(works, slices)
        self._lap("route")
        marks.append(time.perf_counter())
        failed = self._score(jobs)
        marks.append(time.perf_counter())
        fetch, route, score = (1000 * (b - a) for a, b in pairwise(marks))
        timings = Timings(decode=decode_ms, fetch=fetch, route=route, score=score)
        self._lap("order")
        return [
            self._unranked(job.work, "fallback", "fault") if id(job) in failed else self._ranked(job, timings)
            for job in jobs
        ]

    def _route_all(self, works: list[Work], slices: Sequence[LogSlice]) -> list[_Job]:
        """In their order: a request waits for all that the batch scores before it."""
        jobs: list[_Job] = []
        ahead_ms = 0.0
        for work, events in zip(works, slices, strict=True):
            jobs.append(self._route(work, events, ahead_ms))
            ahead_ms += jobs[-1].routed.costs[jobs[-1].routed.plan.name]
        return jobs

    def _route(self, work: Work, events: LogSlice, ahead_ms: float) -> _Job:
        request, response_id = work.request, answers.new_response_id()
        device = request.context.get("device")
        routed = self._router.route(
            response_id,
            surface=request.surface,
            event_ms=work.event_ms,
            candidates=len(request.candidates),
            log_length=events.position.count,
            load=self.load,
            device=device if isinstance(device, str) else "unknown",
            time_left_ms=work.deadline_ms - time.time() * 1000,
            ahead_ms=ahead_ms,
        )
        scoring = answers.to_scoring_request(work, events)
        bids = np.array([c.bid for c in request.candidates], np.float32)
        return _Job(work, response_id, events, routed, scoring, bids)

    def _score(self, jobs: list[_Job]) -> set[int]:
        """Scores plan by plan; returns the ids of jobs that a fault kept from it."""
        failed: set[int] = set()
        by_plan = sorted(jobs, key=lambda job: job.routed.plan.name)
        for _, group in groupby(by_plan, key=lambda job: job.routed.plan.name):
            together = list(group)
            try:
                self._run_plan(together)
            except NotReady:
                raise
            except Exception as error:
                if self._said.due(("batch", type(error))):
                    log.exception("a micro-batch of %d failed; its requests are tried one by one", len(together))
                failed |= self._one_by_one(together)
        return failed

    def _one_by_one(self, jobs: list[_Job]) -> set[int]:
        failed: set[int] = set()
        for job in jobs:
            try:
                self._run_plan([job])
            except Exception as error:
                if self._said.due(("request", type(error))):
                    log.exception("request %s cannot be scored", job.work.request.request_id)
                failed.add(id(job))
        return failed

    def _run_plan(self, jobs: list[_Job]) -> None:
        """The plan's stages in turn: the first scores all, each later one re-scores the best so far."""
        for job in jobs:
            count = len(job.scoring.items)
            job.pctr, job.pcvr = np.zeros(count, np.float32), np.zeros(count, np.float32)
            job.drawn = np.zeros(count, np.float32)
            job.order, job.spent_ms = np.arange(count), 0.0
        for number, stage in enumerate(jobs[0].routed.plan.stages):
            kept = [job.order[: stage.count(len(job.order))] for job in jobs]
            began = self._compute_clock()
            parts = [
                job.scoring.subset(keep.tolist()) if number else job.scoring
                for job, keep in zip(jobs, kept, strict=True)
            ]
            scores = self._engine.score(stage.tier, parts)
            spent = 1000 * (self._compute_clock() - began)
            rows = sum(len(keep) for keep in kept)
            for job, keep, score in zip(jobs, kept, scores, strict=True):
                job.pctr[keep], job.pcvr[keep] = score.pctr, score.pcvr
                job.drawn[keep] = self._drawn(job, keep, score)
                value = self._value(job.bids[keep], job.drawn[keep], score.pcvr)
                # Candidates that this stage did not score stay behind those it did. Stable: equal ones as sent.
                job.order[: len(keep)] = keep[np.argsort(-value, kind="stable")]
                # The batch's fixed cost is shared by its requests, the rest goes by candidates.
                job.spent_ms += spent * (0.5 / len(jobs) + 0.5 * len(keep) / rows)

    def _drawn(self, job: _Job, keep: npt.NDArray[np.int64], score: Scores) -> F32:
        """The prediction, or what is drawn in its place: with the same numbers in each stage."""
        if self._thompson_clicks is None or score.shown is None:
            return score.pctr
        normal_n = normal_draws(job.response_id, len(job.scoring.items))[keep]
        return drawn_probabilities(score.pctr, score.shown, normal_n, self._thompson_clicks)

    def _ranked(self, job: _Job, timings: Timings) -> Answer:
        request, routed = job.work.request, job.routed
        self._router.measured(routed.plan.name, len(request.candidates), job.log.position.count, job.spent_ms)
        model, watermark_ms = self._version()
        assert model is not None  # or this request had not been scored
        response = answers.to_ranked(
            job.work,
            job.response_id,
            job.order[: request.top_k],
            job.pctr,
            job.pcvr,
            self._value(job.bids, job.pctr, job.pcvr),
            None if self._thompson_clicks is None else job.drawn,
            routed=routed,
            model=model,
            watermark_ms=watermark_ms,
            timings=timings,
            replica=self._replica,
        )
        served = answers.to_served(job.work, response, job.log)
        return Answer(job.work, response, served, answers.to_decision(job.work, job.response_id, routed, job.spent_ms))

    def _unranked(self, work: Work, status: Status, reason: str) -> Answer:
        model, watermark_ms = self._version()
        response = answers.to_unranked(
            work, status, reason, model=model, watermark_ms=watermark_ms, replica=self._replica
        )
        return Answer(work, response, answers.to_served_nothing(work, response) if status == "empty" else None)

    def _version(self) -> tuple[ModelVersion | None, int | None]:
        position = self._engine.position
        if position is None:
            return None, None
        model = ModelVersion(epoch=position.epoch, number=position.number, digest=self._engine.config.digest)
        return model, self._engine.watermark_ms
