"""A replay against running workers: send, wait until all of it is joined and learned, judge."""

import time
from collections.abc import Callable
from dataclasses import replace

from feature_store.join import Joiner
from streams.audit import AuditReport, run_audit
from streams.client import RankingClient
from streams.config.settings import Settings
from streams.datasets.logs.traffic import LoggedImpression, TrafficLog
from streams.replay.driver import Pace, Replay, Sent, shift_into_the_past
from streams.replay.graded import Graded
from streams.replay.report import ReplayReport, grade
from streams.replay.watch import Watch
from streams.runtime.redis_client import PATIENT_S, connect

SETTLE_S = 60.0


def run_replay(
    settings: Settings,
    source: TrafficLog,
    rows: list[LoggedImpression],
    *,
    pace: Pace,
    seed: int = 0,
    bar: Callable[[Sent], None] = lambda sent: None,
) -> ReplayReport:
    """Replays the rows, of which there must be one, against running workers; waits until all is joined and learned.

    Raises StreamError where something stalls.
    """
    shift_ms = shift_into_the_past(rows[-1].event_ms, source.click_window_ms, time.time_ns() // 1_000_000)
    joiner = Joiner(connect(settings.redis_url, timeout_s=PATIENT_S), settings.recipe.log, settings.recipe.join)
    prefix = f"replay-{time.time_ns() // 1_000_000:x}"
    with RankingClient(settings.kafka) as client:
        watch = Watch(settings.kafka, joiner)
        try:
            replay = Replay(
                client,
                watch,
                source,
                pace=pace,
                prefix=prefix,
                shift_ms=shift_ms,
                seed=seed,
                tell=bar,
            )
            client.await_model(prefix=f"{prefix}-first", event_ms=rows[0].event_ms + shift_ms)
            sent = replay.run(iter(rows))
            _settle(watch, sent)
            graded = [
                replace(e, learned_by=by)
                for e, by in zip(watch.graded, watch.learned_by(), strict=True)
                if e.response_id in replay.place_of  # others may use the same broker
            ]
            examples = sorted(graded, key=lambda e: replay.place_of[e.response_id])
            shown = [rows[replay.place_of[e.response_id]] for e in examples]
            return _report(source, sent, watch, examples, shown, shift_ms, run_audit(settings))
        finally:
            watch.close()


def _settle(watch: Watch, sent: Sent) -> None:
    """Until every scored impression is a learned example, or nothing more comes."""
    end_s = time.monotonic() + SETTLE_S
    while time.monotonic() < end_s and (len(watch.graded) < sent.with_prediction or watch.unlearned()):
        watch.poll()
        time.sleep(0.02)


def _report(
    source: TrafficLog,
    sent: Sent,
    watch: Watch,
    examples: list[Graded],
    shown: list[LoggedImpression],
    shift_ms: int,
    audit: AuditReport,
) -> ReplayReport:
    try:
        grades, why = grade(examples, shown, source.model), ""
    except ValueError as error:
        grades, why = None, f"no grades: {error}"
    return ReplayReport(
        log=source.name,
        notes=source.notes,
        sent=sent,
        joined=len(watch.graded),
        joined_clicks=watch.clicked,
        repeated=watch.repeated,
        unlearned=watch.unlearned(),
        updates=watch.updates,
        shift_ms=shift_ms,
        audit=audit,
        grades=grades,
        examples=examples,
        why_no_grades=why,
    )
