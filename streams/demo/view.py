"""The live view: a scene → what a terminal shows. Knows rich; reads no topic."""

from collections.abc import Sequence
from statistics import fmean

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.text import Text

from streams.demo.entropy import Entropies
from streams.demo.scene import PHASES, Scene
from streams.freshness.meter import STAGES, quantiles
from streams.wire.messages import RankingResponse

OVER = 1.1
"""Times the budget beyond which the mean cost is no longer called within it."""
BLOCKS = "▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉"
LABEL, FIGURE = "bright_black", "bold"
COLOURS = {"live": "green", "frozen": "blue"}


def sparkline(values: Sequence[float | None], width: int, *, low: float = 0.0, high: float | None = None) -> str:
    """The newest values as columns, `low` at the bottom and `high` (default: the largest of them) at the top; a gap
    where there is none."""
    newest = list(values)[-width:]
    known = [v for v in newest if v is not None]
    top = max(known, default=0.0) if high is None else high
    span = max(top - low, 1e-12)
    steps = len(BLOCKS) - 1
    columns = (" " if v is None else BLOCKS[round(min(max((v - low) / span, 0.0), 1.0) * steps)] for v in newest)
    return "".join(columns).rjust(width)


def bar(share: float, width: int) -> str:
    """A horizontal bar over `share` (0 to 1) of the width, to an eighth of a column."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)


def milliseconds(value: float | None) -> str:
    """Three digits and their unit."""
    if value is None:
        return "–"
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"


def count_bytes(value: float) -> str:
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def ads(page: RankingResponse, count: int = 3) -> str:
    """The best ads of an answer, with the probabilities of a click."""
    return ", ".join(f"{item.item} {item.pctr or 0.0:.0%}" for item in page.items[:count])


def render(scene: Scene, width: int) -> RenderableType:
    """Two columns of panels, the same lines in every state: nothing jumps when a figure appears."""
    left = max((width - 1) // 2, 38)
    right = max(width - left, 38)
    layout = Layout()
    layout.split_column(
        Layout(_header(scene, width), size=4),
        Layout(name="upper", size=9),
        Layout(name="lower", size=8),
        Layout(_footer(scene), size=2),
        Layout(Text(" ")),  # the rest of a tall terminal
    )
    layout["upper"].split_row(
        Layout(_panel("ranking", _ranking(scene, left - 4)), size=left),
        Layout(_panel("freshness: click → response", _freshness(scene, right - 4))),
    )
    layout["lower"].split_row(
        Layout(_panel("learning: normalized entropy ↓", _learning(scene, left - 4)), size=left),
        Layout(_panel("routing: value − λ · cost", _routing(scene, right - 4))),
    )
    return layout


def _panel(title: str, body: RenderableType) -> Panel:
    return Panel(body, title=f"[bold]{title}[/]", title_align="left", border_style="bright_black", padding=(0, 1))


def _header(scene: Scene, width: int) -> RenderableType:
    path = Text("tiderank demo  ", style="bold cyan")
    for phase in PHASES:
        now = phase == scene.phase
        path.append(f" {phase} ", style="reverse bold" if now else LABEL)
        path.append("›" if phase != PHASES[-1] else "", style=LABEL)
    progress = Text(bar(scene.progress, max(width // 3, 10)), style="cyan on grey15")
    return Group(path, Text(scene.house, style=LABEL, no_wrap=True), Text.assemble(progress, " ", scene.progress_text))


def _footer(scene: Scene) -> Text:
    size, text = scene.log_size, Text(no_wrap=True, overflow="ellipsis")
    text.append(" user log ", style=LABEL)
    if size is not None and size.events:
        text.append(f"{size.events:,} events of {size.users:,} users", style=FIGURE)
        text.append(f" in {count_bytes(size.size_bytes)} of Redis", style=LABEL)
    else:
        text.append("–", style=LABEL)
    text.append("   dead letters ", style=LABEL)
    text.append(f"{scene.part.dead_letters}", style=FIGURE if not scene.part.dead_letters else "bold red")
    text.append(f"\n logs {scene.logs}   Ctrl-C ends it with a summary", style=LABEL)
    return text


def _line(label: str, figure: str, picture: str, style: str = "cyan") -> Text:
    line = Text(no_wrap=True, overflow="crop")
    line.append(f"{label:<11}", style=LABEL)
    line.append(f"{figure:>9}", style=FIGURE)
    line.append(f"  {picture}", style=style)
    return line


def _ranking(scene: Scene, width: int) -> RenderableType:
    series, room = scene.series, width - 22
    latency = scene.latency_ms or {}
    server = quantiles(list(scene.part.server_ms)) or {}
    rates = [r for r in list(series.rate)[-5:] if r is not None]
    answered, fallbacks = scene.traffic.get("responses", 0), scene.part.responses["fallback"]
    reasons = ", ".join(f"{n} {reason}" for reason, n in scene.part.fallbacks.most_common(2))
    return Group(
        _line("requests/s", f"{fmean(rates):.1f}" if rates else "–", sparkline(series.rate, room)),
        _line("p50", milliseconds(latency.get("p50")), sparkline(series.p50_ms, room)),
        _line("p99", milliseconds(latency.get("p99")), sparkline(series.p99_ms, room)),
        _line("scoring p50", milliseconds(server.get("p50")), f"p99 {milliseconds(server.get('p99'))}", LABEL),
        _line("answered", f"{answered:,}", f"of {scene.traffic.get('requests', 0):,}", LABEL),
        _line("fallbacks", f"{fallbacks:,}", reasons, "yellow"),
        _line("newest ads", scene.page.user if scene.page else "–", ads(scene.page) if scene.page else "", LABEL),
    )


def _freshness(scene: Scene, width: int) -> RenderableType:
    series, room = scene.series, width - 22
    clicks = scene.clicks or {"ms": {}, "stages_ms": {}}
    stages = {stage: (clicks["stages_ms"].get(stage) or {}).get("p50") for stage in STAGES}
    longest = max((v for v in stages.values() if v is not None), default=1.0) or 1.0
    return Group(
        _line("p50", milliseconds(clicks["ms"].get("p50")), sparkline(series.fresh_p50_ms, room), "magenta"),
        _line("p99", milliseconds(clicks["ms"].get("p99")), sparkline(series.fresh_p99_ms, room), "magenta"),
        *(
            _line(stage, milliseconds(value), bar((value or 0.0) / longest, room), "magenta")
            for stage, value in stages.items()
        ),
    )


def _learning(scene: Scene, width: int) -> RenderableType:
    found, series, room = scene.entropies, scene.series, width - 22
    newest = (*list(series.live)[-room:], *list(series.frozen)[-room:])
    shown = [v for v in newest if v is not None]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    live = sparkline(series.live, room, low=low, high=high)
    frozen = sparkline(series.frozen, room, low=low, high=high)
    part = scene.part
    return Group(
        _line("live", _ratio(found.live if found else None), live, COLOURS["live"]),
        _line("frozen copy", _ratio(found.frozen if found else None), frozen, COLOURS["frozen"]),
        _line("base rate", _ratio(found.base if found else None), ""),
        _verdict(found),
        _line("learned", f"{part.examples:,}", "examples", LABEL),
        _line("updates", f"{part.updates_applied:,}", f"of {len(part.updates):,} in place", LABEL),
    )


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _verdict(found: Entropies | None) -> Text:
    if found is None or found.difference_95 is None:
        return _line("difference", "–", "no frozen copy yet", LABEL)
    low, high = found.difference_95
    style = "green" if high < 0 else "red" if low > 0 else "yellow"
    return _line("difference", f"{(low + high) / 2:+.4f}", f"± {(high - low) / 2:.4f} (95 %)", style)


def _routing(scene: Scene, width: int) -> RenderableType:
    part, series = scene.part, scene.series
    decisions, room = part.plans.total(), width - 28
    lines = [
        Text.assemble(
            (f"{plan:<12}", LABEL),
            (f"{count / decisions:>5.0%}", FIGURE),
            (f"{milliseconds(part.plan_ms[plan] / count):>9}", LABEL),
            (f"  {bar(count / decisions, room)}", "blue"),
            no_wrap=True,
            overflow="crop",
        )
        for plan, count in sorted(part.plans.items(), key=lambda kv: part.plan_ms[kv[0]] / kv[1])[:3]
    ]
    lines += [Text() for _ in range(3 - len(lines))]
    room = width - 22
    over = part.mean_cost_ms is not None and part.mean_cost_ms > OVER * scene.budget_ms
    return Group(
        *lines,
        _line("mean cost", milliseconds(part.mean_cost_ms), f"of {scene.budget_ms:g} ms budget", _warn(over)),
        _line("price λ", "–" if scene.price is None else f"{scene.price:.2g}", sparkline(series.price, room)),
        _line("rewards", f"{scene.learned_rewards:,}", "learned by the router", LABEL),
    )


def _warn(condition: bool) -> str:
    return "yellow" if condition else LABEL
