"""What a demo has shown, once it is over: one dictionary for `--json`, and the same for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streams.demo.entropy import calibration, entropies
from streams.demo.observer import Observer, Part
from streams.demo.view import OVER, count_bytes, milliseconds
from streams.freshness.meter import quantiles, summarize


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """What is known at the end beside what was observed."""

    reason: str
    """`finished`, `interrupted`, or what broke."""
    last_words: str
    """End of the log of what broke; empty where nothing did."""
    measured: bool
    """Whether the measured part began; if not, what was seen is of the warm-up."""
    seconds: float
    """How long the part lasted."""
    traffic: Mapping[str, Any]
    """The ad system's counts of the part."""
    drift: float | None
    """Correlation of the world's click logits with those of a minute ago."""
    budget_ms: float
    audit: Any | None
    """The audit's report; None where there was none."""


def summarize_demo(observer: Observer, part: Part, ending: Ending) -> dict[str, Any]:
    """Returns the summary as JSON has it. Counts are of the measured part; None is what is not known."""
    traffic, clicks = ending.traffic, summarize(part.fresh)
    found, size = entropies(part.steps), observer.log_size
    latency = traffic.get("phase_latency_ms", traffic.get("latency_ms"))
    by_status = traffic.get("by_status", {})
    decisions = part.plans.total()
    audit = ending.audit
    return {
        "exit_reason": ending.reason,
        "last_words": ending.last_words or None,
        "part": "measured" if ending.measured else "warm-up",
        "seconds": round(ending.seconds, 1),
        "requests": traffic.get("requests", 0),
        "responses": traffic.get("responses", 0),
        "fallbacks": by_status.get("fallback", 0),
        "fallback_reasons": dict(part.fallbacks),
        "latency_ms": {name: latency[name] for name in ("p50", "p99")} if latency else None,
        "scoring_ms": _rounded(quantiles(list(part.server_ms))),
        "freshness_ms": clicks["click"]["ms"] if "click" in clicks else None,
        "freshness": clicks,
        "examples_trained": part.examples,
        "examples_a_group": _round(part.examples / part.responses_learned if part.responses_learned else None),
        "examples_before_freeze": observer.frozen_after,
        "examples_after_freeze": _after_freeze(observer),
        "updates_published": len(part.updates),
        "updates_applied": part.updates_applied,
        "ne_live": _round(found.live if found else None),
        "ne_frozen": _round(found.frozen if found else None),
        "ne_base": _round(found.base if found else None),
        "ne_difference_95": [_round(v) for v in found.difference_95] if found and found.difference_95 else None,
        "ne_labels": found.labels if found else 0,
        "calibration": {
            "click": _round(calibration(part.steps)),
            "conversion": _round(calibration(part.conversion_steps)),
        },
        "ne_truth": traffic.get("ne_oracle"),
        "drift_correlation_per_minute": ending.drift,
        "tier_share": {plan: round(n / decisions, 4) for plan, n in sorted(part.plans.items())},
        "mean_cost_ms": _round(part.mean_cost_ms),
        "budget_ms": ending.budget_ms,
        "price": observer.router.price if observer.router else None,
        "user_log": {"users": size.users, "events": size.events, "bytes": size.size_bytes} if size else None,
        "dead_letters": part.dead_letters,
        "records_unseen": observer.missed,
        "events_lost": audit.count("user_logs", "lost") if audit else None,
        "events_stored_twice": audit.count("user_logs", "stored_twice") if audit else None,
        "audit_ok": audit.ok if audit else None,
        "audit": audit.as_dict() if audit else None,
    }


def view_of(summary: Mapping[str, Any], *, logs: Path) -> RenderableType:
    """The summary as a person wants it: how fast, how fresh, what it was good for, what it cost, what was lost."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bright_black", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, sentence in rows(summary, logs=logs):
        grid.add_row(name, Text(sentence))
    title = Text.assemble(("tiderank demo", "bold cyan"), f": summary of the {summary['part']} part")
    return Group(title, Text(), Padding(grid, (0, 2)))


def rows(summary: Mapping[str, Any], *, logs: Path) -> list[tuple[str, str]]:
    """Returns pairs of a name and a sentence; a sentence that continues the one before has no name."""
    found = [
        ("ended", f"{summary['exit_reason']}, after {summary['seconds']:.0f} s of the {summary['part']} part"),
        ("", summary["last_words"] or ""),
        ("ranking", _ranking(summary)),
        ("freshness", _freshness(summary)),
        ("learning", _learning(summary)),
        ("", _verdict(summary)),
        ("routing", _routing(summary)),
        ("user log", _log(summary)),
        ("audit", _audit(summary)),
        ("logs", str(logs)),
    ]
    return [(name, sentence) for name, sentence in found if sentence]


def _after_freeze(observer: Observer) -> int | None:
    return None if observer.frozen_after is None else observer.learned - observer.frozen_after


def _ranking(s: Mapping[str, Any]) -> str:
    latency = s["latency_ms"] or {"p50": None, "p99": None}
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in s["fallback_reasons"].items())
    return (
        f"{s['responses']:,} of {s['requests']:,} requests answered, {s['fallbacks']:,} by fallback"
        f"{f' ({reasons})' if reasons else ''};"
        f" p50 {milliseconds(latency['p50'])}, p99 {milliseconds(latency['p99'])}"
        " from when a request was due until its answer was read"
    )


def _freshness(s: Mapping[str, Any]) -> str:
    if s["freshness_ms"] is None:
        return "no click reached a response"
    click = s["freshness"]["click"]
    stages = ", ".join(f"{stage} {milliseconds(ms['p50'])}" for stage, ms in click["stages_ms"].items())
    return (
        f"p50 {milliseconds(s['freshness_ms']['p50'])}, p99 {milliseconds(s['freshness_ms']['p99'])} from a click to"
        f" the first response that knows it ({stages}; {click['count']:,} clicks)"
    )


def _learning(s: Mapping[str, Any]) -> str:
    if s["ne_live"] is None:
        return f"{s['examples_trained']:,} examples learned: too few for a normalized entropy"
    frozen = "no copy was frozen" if s["ne_frozen"] is None else f"frozen copy {s['ne_frozen']:.4f}"
    truth = "" if s["ne_truth"] is None else f", the world's own truth {s['ne_truth']:.4f}"
    return (
        f"normalized entropy live {s['ne_live']:.4f}, {frozen}, base rate {s['ne_base']:.4f}{truth}"
        f" ({s['ne_labels']:,} impressions){_calibration(s['calibration'])}"
    )


def _calibration(ratios: Mapping[str, float | None]) -> str:
    known = [f"{ratio:.2f} of {kind}s" for kind, ratio in ratios.items() if ratio is not None]
    return f"; predicted over observed {', '.join(known)}" if known else ""


def _verdict(s: Mapping[str, Any]) -> str:
    if s["ne_difference_95"] is None:
        return ""
    low, high = s["ne_difference_95"]
    meaning = (
        "learning on made its predictions better"
        if high < 0
        else "the frozen copy predicted better"
        if low > 0
        else "no difference can be told in this time"
    )
    before, after = s["examples_before_freeze"], s["examples_after_freeze"]
    enough = "" if before >= after else " (fewer than it should)"
    return (
        f"live − frozen {(low + high) / 2:+.4f}, 95 % between {low:+.4f} and {high:+.4f}: {meaning};"
        f" the copy had learned {before:,} examples{enough}, the live model {after:,} more in"
        f" {s['updates_applied']:,} updates"
    )


def _routing(s: Mapping[str, Any]) -> str:
    if s["mean_cost_ms"] is None:
        return ""
    shares = ", ".join(f"{plan} {share:.0%}" for plan, share in s["tier_share"].items())
    price = "" if s["price"] is None else f"; λ, the price of a millisecond, {s['price']:.2g}"
    over = " (over it: the price has not settled)" if s["mean_cost_ms"] > OVER * s["budget_ms"] else ""
    return f"{shares}; mean cost {s['mean_cost_ms']:.1f} ms of {s['budget_ms']:g} ms budget{over}{price}"


def _log(s: Mapping[str, Any]) -> str:
    size = s["user_log"]
    if not size or not size["events"]:
        return ""
    each = size["bytes"] / size["events"]
    return (
        f"{size['events']:,} events of {size['users']:,} users in {count_bytes(size['bytes'])} ({each:.0f} bytes each)"
    )


def _audit(s: Mapping[str, Any]) -> str:
    if s["audit"] is None:
        return "not done"
    let_go = s["audit"].get("let_go")
    known = "" if not let_go else f"; the broker let go of {sum(let_go.values()):,} records, what needs them is unknown"
    wrong = ", ".join(f"{f['count']:,} {f['section']} {f['name'].replace('_', ' ')}" for f in s["audit"]["fault"])
    word = "nothing is wrong" if s["audit_ok"] else f"wrong: {wrong} (`--json` has the ids)"
    return (
        f"{s['events_lost']:,} events lost, {s['events_stored_twice']:,} stored twice; {word}{known};"
        f" {s['dead_letters']:,} dead letters"
    )


def _rounded(values: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if values is None else {name: round(value, 2) for name, value in values.items()}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
