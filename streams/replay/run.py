"""A replay against running workers: send, wait until all of it is joined and learned, judge."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace

from feature_store.join import Joiner
from streams.audit import run_audit
from streams.client import RankingClient
from streams.config.settings import Settings
from streams.datasets.logs.traffic import LoggedImpression, TrafficLog
from streams.replay.driver import Pace, Replay, Sent, shift_into_the_past
from streams.replay.graded import Graded
from streams.replay.house import check_house, check_served, known_before, refuse_known
from streams.replay.recipe_fit import left_aside
from streams.replay.report import Grades, ReplayReport, grade
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
    again: bool = False,
    bar: Callable[[Sent], None] = lambda sent: None,
) -> ReplayReport:
    """Replays the rows, of which there must be one, against running workers; waits until all is joined and learned.

    Args:
        settings: with the recipe that the workers run with; its click window counts, not the log's own.
        again: a house that has learned before is taken, too.

    Raises StartError, before any of the log is sent, where the workers run with another recipe or, unless `again`, the
    house has learned before; StreamError where something stalls.
    """
    source = replace(source, click_window_ms=settings.recipe.join.click_window_ms)
    check_house(settings, source)
    known = known_before(settings, list(dict.fromkeys(row.user for row in rows)))
    if not again:
        refuse_known(known)
    shift_ms = shift_into_the_past(rows[-1].event_ms, source.click_window_ms, time.time_ns() // 1_000_000)
    joiner = Joiner(connect(settings.redis_url, timeout_s=PATIENT_S), settings.recipe.log, settings.recipe.join)
    prefix, first_ms = f"replay-{time.time_ns() // 1_000_000:x}", rows[0].event_ms + shift_ms
    with RankingClient(settings.kafka) as client, closing(Watch(settings.kafka, joiner)) as watch:
        client.await_model(prefix=f"{prefix}-first", event_ms=first_ms)
        check_served(client, settings.recipe, source, prefix=f"{prefix}-first", event_ms=first_ms)
        replay = Replay(client, watch, source, pace=pace, prefix=prefix, shift_ms=shift_ms, seed=seed, tell=bar)
        sent = replay.run(iter(rows))
        _settle(watch, sent)
        examples = _of_the_log(watch, replay.place_of)
        grades, why = _grades(examples, [rows[replay.place_of[e.response_id]] for e in examples], source)
        return ReplayReport(
            log=source.name,
            notes=source.notes,
            recipe=settings.recipe,
            left_aside=left_aside(settings.recipe, source),
            known=known or None,
            sent=sent,
            joined=len(examples),
            joined_clicks=sum(e.label > 0.5 for e in examples),
            repeated=watch.repeated,
            unlearned=watch.unlearned(),
            updates=watch.updates,
            shift_ms=shift_ms,
            audit=run_audit(settings),
            grades=grades,
            examples=examples,
            why_no_grades=why,
        )


def _of_the_log(watch: Watch, place_of: Mapping[str, int]) -> list[Graded]:
    """The examples of the log's impressions, in its order: others may use the same broker."""
    learned = zip(watch.graded, watch.learned_by(), strict=True)
    found = [replace(example, learned_by=by) for example, by in learned if example.response_id in place_of]
    return sorted(found, key=lambda example: place_of[example.response_id])


def _settle(watch: Watch, sent: Sent) -> None:
    """Until every scored impression is a learned example, or nothing more comes."""
    end_s = time.monotonic() + SETTLE_S
    while time.monotonic() < end_s and (len(watch.graded) < sent.with_prediction or watch.unlearned()):
        watch.poll()
        time.sleep(0.02)


def _grades(examples: list[Graded], shown: list[LoggedImpression], source: TrafficLog) -> tuple[Grades | None, str]:
    """Grades, or None and why there are none."""
    try:
        return grade(examples, shown, source.model), ""
    except ValueError as error:
        return None, str(error)
