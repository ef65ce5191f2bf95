"""Messages ↔ the lower folders' own dataclasses: the one place where the two meet."""

import uuid

from feature_store.log import LogSlice
from ranker.arrays import F32, I64
from ranker.inputs.requests import ScoringRequest
from streams.wire.messages import (
    Decision,
    LogRef,
    ModelVersion,
    RankedItem,
    RankingResponse,
    Served,
    ServedItem,
    Status,
    Timings,
)
from streams.workers.rank.intake import Work
from streams.workers.rank.routing import Routed


def new_response_id() -> str:
    return uuid.uuid4().hex


def to_scoring_request(work: Work, events: LogSlice) -> ScoringRequest:
    request = work.request
    return ScoringRequest(
        user=request.user,
        features=request.features,
        context=request.context,
        surface=request.surface,
        event_ms=work.event_ms,
        items=[c.item for c in request.candidates],
        item_features=[c.features for c in request.candidates],
        log=events.events,
    )


def to_unranked(
    work: Work, status: Status, reason: str, *, model: ModelVersion | None, watermark_ms: int | None, replica: str
) -> RankingResponse:
    """A response whose candidates stand as they were sent, without probabilities."""
    request = work.request
    return RankingResponse(
        response_id=new_response_id(),
        request_id=request.request_id,
        user=request.user,
        status=status,
        reason=reason,
        items=[RankedItem(item=c.item) for c in request.candidates[: request.top_k]],
        model=model,
        watermark_ms=watermark_ms,
        event_ms=work.event_ms,
        replica=replica,
    )


def to_error(request_id: str, user: str, reason: str, *, event_ms: int, replica: str) -> RankingResponse:
    """What the sender of a refused request gets."""
    return RankingResponse(
        response_id=new_response_id(),
        request_id=request_id,
        user=user,
        status="error",
        reason=reason[:256],
        event_ms=event_ms,
        replica=replica,
    )


def to_ranked(
    work: Work,
    response_id: str,
    top: I64,
    pctr: F32,
    pcvr: F32,
    values: F32,
    drawn: F32 | None,
    *,
    routed: Routed,
    model: ModelVersion,
    watermark_ms: int | None,
    timings: Timings,
    replica: str,
) -> RankingResponse:
    """The response with the candidates `top`, best first; the arrays are over all candidates, as sent."""
    candidates = work.request.candidates
    return RankingResponse(
        response_id=response_id,
        request_id=work.request.request_id,
        user=work.request.user,
        status="ok",
        items=[
            RankedItem(
                item=candidates[i].item,
                pctr=float(pctr[i]),
                pcvr=float(pcvr[i]),
                value=float(values[i]),
                drawn=None if drawn is None else float(drawn[i]),
            )
            for i in top
        ],
        tier=routed.plan.tier,
        plan=routed.plan.name,
        model=model,
        watermark_ms=watermark_ms,
        event_ms=work.event_ms,
        timings=timings,
        replica=replica,
    )


def to_served(work: Work, response: RankingResponse, events: LogSlice) -> Served:
    """What scoring saw of a ranked response."""
    request = work.request
    sent = {c.item: c for c in reversed(request.candidates)}  # of two with one id, the first
    ranked = {r.item: r for r in reversed(response.items)}  # the better one, once: an impression names only the item
    return Served(
        response_id=response.response_id,
        request_id=request.request_id,
        user=request.user,
        surface=request.surface,
        event_ms=work.event_ms,
        log=LogRef(generation=events.position.generation, count=events.position.count),
        features=request.features,
        context=request.context,
        items=[
            ServedItem(
                item=r.item,
                features=sent[r.item].features,
                bid=sent[r.item].bid,
                pctr=r.pctr or 0.0,
                pcvr=r.pcvr or 0.0,
                drawn=r.drawn,
            )
            for r in reversed(ranked.values())
        ],
        plan=response.plan or "",
        tier=response.tier or "",
        model=response.model or ModelVersion(epoch=0, number=0),
    )


def to_served_nothing(work: Work, response: RankingResponse) -> Served:
    """Returns the record of a request without candidates: it shows nothing, but its time moves the clock of the
    join."""
    request = work.request
    return Served(
        response_id=response.response_id,
        request_id=request.request_id,
        user=request.user,
        surface=request.surface,
        event_ms=work.event_ms,
        log=LogRef(),
        features={},
        context={},
        items=[],
        plan="",
        tier="",
        model=response.model or ModelVersion(epoch=0, number=0),
    )


def to_decision(work: Work, response_id: str, routed: Routed, spent_ms: float) -> Decision:
    return Decision(
        response_id=response_id,
        user=work.request.user,
        event_ms=work.event_ms,
        plan=routed.plan.name,
        probabilities=routed.choice.probabilities,
        values=dict(routed.values),
        costs=dict(routed.costs),
        measured_ms=spent_ms,
        price=routed.price,
        context=dict(routed.context),
        router_number=routed.router_number,
        forced=routed.forced,
        reason=routed.reason,
    )
