"""Where a scene is shown: a live terminal, or plain lines where nobody watches."""

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live

from streams.demo.scene import Scene
from streams.demo.view import ads, milliseconds, render

REFRESH_S = 0.25
LINE_S = 3.0


class Screen(Protocol):
    def show(self, scene: Scene) -> None:
        """Called as often as one likes."""

    def __enter__(self) -> "Screen": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def screen_for(console: Console) -> Screen:
    return LiveScreen(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


class LiveScreen:
    """The alternate screen, drawn four times a second from this thread; what was there before comes back after it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False)
        self._due = 0.0

    def show(self, scene: Scene) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + REFRESH_S
            self._live.update(render(scene, self._console.width), refresh=True)

    def __enter__(self) -> "LiveScreen":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


class Lines:
    """A line every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._due = 0.0
        self._phase = ""

    def show(self, scene: Scene) -> None:
        if time.monotonic() >= self._due or scene.phase != self._phase:
            self._due, self._phase = time.monotonic() + LINE_S, scene.phase
            self._console.print(line(scene), highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def line(scene: Scene) -> str:
    latency, clicks = scene.latency_ms or {}, (scene.clicks or {"ms": {}})["ms"]
    entropy = scene.entropies
    live = f"{entropy.live:.3f}" if entropy else "–"
    frozen = f"{entropy.frozen:.3f}" if entropy and entropy.frozen is not None else "–"
    return (
        f"{scene.phase:<9} {scene.progress:>4.0%}  answered {scene.traffic.get('responses', 0):,}"
        f"/{scene.traffic.get('requests', 0):,}"
        f"  p50 {milliseconds(latency.get('p50'))} p99 {milliseconds(latency.get('p99'))}"
        f"  fresh p50 {milliseconds(clicks.get('p50'))} p99 {milliseconds(clicks.get('p99'))}"
        f"  entropy live {live} frozen {frozen}  learned {scene.part.examples:,}"
        f"{f'  {scene.page.user} gets {ads(scene.page)}' if scene.page else ''}"
    )
