"""The view as text: the same lines in every state, at every width, and what is drawn means what it shows."""

import io

import pytest
from rich.console import Console

from router_bandit.budget import BudgetOptions
from streams.demo.entropy import Entropies, StepLosses
from streams.demo.observer import LogSize, Part
from streams.demo.scene import Scene
from streams.demo.screen import Lines, LiveScreen, line, screen_for
from streams.demo.view import bar, count_bytes, milliseconds, render, sparkline
from streams.freshness.meter import Fresh, summarize
from streams.wire.messages import RankedItem, RankingResponse

HEIGHT = 24


def empty_scene() -> Scene:
    return Scene(house="a broker · a Redis", logs="/logs", budget_ms=BudgetOptions().budget_ms, part=Part(0))


def full_scene() -> Scene:
    scene = empty_scene()
    part = scene.part
    part.responses.update(ok=735, fallback=5)
    part.fallbacks.update(expired=5)
    part.server_ms.extend([5.0, 6.0, 30.0])
    part.plans.update({"light": 700, "heavy": 25, "light+heavy": 10})
    part.plan_ms |= {"light": 2_100.0, "heavy": 300.0, "light+heavy": 60.0}
    part.steps.append(StepLosses(0, 100, 10, 10.5, 30.0, 32.0, 31.0))
    part.examples, part.dead_letters = 3_104, 2
    part.updates |= {(1, n) for n in range(1, 371)}
    part.served_versions |= {(1, 369)}
    clicks = [Fresh("click", 0, join_ms=30, queue_ms=n, step_ms=200, publish_ms=5, apply_ms=25) for n in range(50)]
    scene.clicks = summarize(clicks)["click"]
    scene.entropies = Entropies(labels=3_104, live=0.912, base=1.01, frozen=0.938, difference_95=(-0.041, -0.011))
    scene.traffic = {"requests": 741, "responses": 740, "phase_latency_ms": {"p50": 8.2, "p99": 1_031.0}}
    scene.phase, scene.progress, scene.progress_text = "measured", 0.62, "37 of 60 s"
    best = [RankedItem(item="ad-7", pctr=0.314), RankedItem(item="ad-3", pctr=0.05)]
    scene.page = RankingResponse(response_id="r", request_id="q", user="u9", status="ok", items=best)
    scene.price, scene.learned_rewards, scene.log_size = 0.0031, 512, LogSize(498, 14_210, 1_100_000)
    for second in range(70):
        scene.series.rate.append(20.0)
        scene.series.p50_ms.append(8.0 + second % 3)
        scene.series.p99_ms.append(None if second < 40 else 31.0)
        scene.series.live.append(0.9 + 0.001 * second)
        scene.series.frozen.append(0.95)
    return scene


def drawn(scene: Scene, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=HEIGHT, color_system=None)
    with console.capture() as capture:
        console.print(render(scene, width))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [80, 81, 100, 200])
def test_every_state_fills_the_same_places(width: int) -> None:
    pages = [drawn(scene, width) for scene in (empty_scene(), full_scene())]
    assert [len(page) for page in pages] == [HEIGHT, HEIGHT]
    assert all(len(row) <= width for page in pages for row in page)
    edges = [[place for place, row in enumerate(page) if row[:1] in "╭╰"] for page in pages]
    assert edges[0] == edges[1]
    assert len(edges[0]) == 4


@pytest.mark.parametrize("width", [80, 120])
def test_the_figures_are_all_there(width: int) -> None:
    page = "\n".join(drawn(full_scene(), width))
    for shown in (
        *("20.0", "8.2 ms", "1,031 ms", "740", "of 741", "5 expired", "measured", "37 of 60 s"),
        *("284 ms", "join", "queue", "step", "publish", "apply", "200 ms"),
        *("0.9120", "0.9380", "1.0100", "-0.0260", "± 0.0150", "3,104", "369", "of 370"),
        *("95%", "3.0 ms", "light+heavy", "0.0031", "512", "14,210 events of 498 users", "1.1 MB"),
    ):
        assert shown in page, shown


def test_sparkline_scales_between_low_and_high_and_leaves_gaps() -> None:
    assert sparkline([0.0, None, 4.0, 8.0], 4) == "▁ ▅█"
    assert sparkline([0.0, 5.0, 10.0], 2) == "▅█"
    assert sparkline([1.0], 4) == "   █"
    assert sparkline([9.0, 11.0], 2, low=10.0, high=10.5) == "▁█"
    assert sparkline([], 3) == "   "
    assert sparkline([0.0, 0.0], 2) == "▁▁"


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "    "), (1.0, "████"), (0.5, "██  "), (7.0, "████"), (0.28, "█▏  ")]
)
def test_bar_is_drawn_to_an_eighth(share: float, shown: str) -> None:
    assert bar(share, 4) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.0, "0.0 ms"), (99.94, "99.9 ms"), (412.4, "412 ms"), (12_345.0, "12.3 s")]
)
def test_milliseconds(value: float | None, shown: str) -> None:
    assert milliseconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(999, "999 B"), (1_500, "1.5 KB"), (2.5e6, "2.5 MB"), (3e10, "30.0 GB")])
def test_count_bytes(value: float, shown: str) -> None:
    assert count_bytes(value) == shown


def test_a_pipe_gets_lines_and_a_terminal_a_live_view() -> None:
    assert isinstance(screen_for(Console(file=io.StringIO())), Lines)
    assert isinstance(screen_for(Console(file=io.StringIO(), force_terminal=True)), LiveScreen)


def test_lines_come_every_few_seconds_and_at_every_phase() -> None:
    out, scene = io.StringIO(), full_scene()
    with Lines(Console(file=out, width=200)) as screen:
        screen.show(scene)
        screen.show(scene)
        scene.phase = "draining"
        screen.show(scene)
    assert [row.split()[0] for row in out.getvalue().splitlines()] == ["measured", "draining"]
    assert "p50 8.2 ms p99 1,031 ms" in out.getvalue()


def test_a_line_needs_no_figure_to_be_known() -> None:
    assert line(empty_scene()).startswith("warm-up     0%")


def test_updates_applied_are_those_up_to_the_newest_version_that_answered() -> None:
    part = Part(0)
    part.updates |= {(1, 8), (1, 9), (1, 10), (2, 1), (2, 2)}
    part.served_versions |= {(1, 7), (1, 9), (2, 1)}
    assert part.updates_applied == 3


def test_the_newest_ads_are_shown_with_what_is_predicted_of_them() -> None:
    assert "u9 gets ad-7 31%, ad-3 5%" in line(full_scene())
    assert "gets" not in line(empty_scene())
    [shown] = [row for row in drawn(full_scene(), 100) if "newest ads" in row]
    assert "u9  ad-7 31%" in shown
