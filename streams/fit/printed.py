"""What a person reads of a fit: columns, epochs, trials and figures; with --json all of it on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from streams.fit.files import FitFiles

if TYPE_CHECKING:
    from rich.progress import Progress

    from ranker.tabular.metrics import Grades
    from ranker.tabular.search import Trial
    from ranker.tabular.training import Epoch
    from streams.fit.run import FitResult, Prepared


def tell_columns(prepared: "Prepared", files: FitFiles, as_json: bool) -> None:
    width = max(len(column.name) for column in prepared.found)
    for column in prepared.found:
        warning = "warning: " if column.kind == "dropped" else ""
        click.echo(f"{column.name:<{width}}  {column.kind:<11}  {warning}{column.reason}", err=as_json)
    for file, names in prepared.extra.items():
        click.echo(f"{file}: columns {names} are not in {files.train}, and left aside", err=as_json)
    source = f"{files.valid}" if files.valid else f"held out of {files.train} (seeded)"
    click.echo(f"{len(prepared.train)} rows to learn from, {len(prepared.valid)} to validate: {source}", err=as_json)


def tell_chosen(result: "FitResult", as_json: bool) -> None:
    chosen, trials = result.chosen, result.trials
    if trials[0].cut:
        click.echo(
            "the time ran out in the first trial: its best epoch is kept, and nothing else was tried", err=as_json
        )
    click.echo(f"chosen: trial {chosen.number} of {len(trials)}: {_settings(chosen)}", err=as_json)


def tell_result(result: "FitResult", as_json: bool) -> None:
    on = "validation" if result.prepared.test is None else "test"
    click.echo(f"best epoch {result.best.number} of {len(result.chosen.epochs)}, {result.seconds:.1f} s", err=as_json)
    if result.saved is not None:
        click.echo(f"saved to {result.saved}", err=as_json)
    click.echo(f"{on}: {figures(result.grades)}", err=as_json)


def figures(grades: "Grades") -> str:
    if grades.auc is None or grades.normalized_entropy is None:
        return f"AUC n/a (labels of one class) log loss {grades.logloss:.5f}"
    return f"AUC {grades.auc:.5f} log loss {grades.logloss:.5f} normalized entropy {grades.normalized_entropy:.5f}"


def option(name: str) -> str:
    """The option that sets a field."""
    return f"--{name.replace('_', '-')}"


def _settings(trial: "Trial") -> str:
    """The options that would make this trial again."""
    return " ".join(f"{option(name)} {value}" for name, value in trial.settings.items())


class Bar:
    """A line an epoch, or of a search a line a trial; between them, on a terminal, how far the epoch is."""

    def __init__(self, progress: "Progress", count: int, as_json: bool, searching: bool) -> None:
        self._progress = progress
        self._task = progress.add_task("epoch 1", total=count)
        self._as_json = as_json
        self._searching = searching

    def rows(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def epoch(self, epoch: "Epoch") -> None:
        self._progress.reset(self._task, description=f"epoch {epoch.number + 1}")
        if self._searching:
            return
        click.echo(
            f"epoch {epoch.number:>3}  train log loss {epoch.train_logloss:.5f}  validation {figures(epoch.valid)}"
            f"  {epoch.seconds:.1f} s{'  best so far' if epoch.best else ''}",
            err=self._as_json,
        )

    def trial(self, trial: "Trial", best: bool) -> None:
        self._progress.reset(self._task, description="epoch 1")
        if not self._searching:
            return
        click.echo(
            f"trial {trial.number:>3}  {_settings(trial)}  validation log loss {trial.logloss:.5f}"
            f"  {len(trial.epochs)} epochs  {trial.seconds:.1f} s"
            f"{'  cut at the deadline' if trial.cut else ''}{'  best so far' if best else ''}",
            err=self._as_json,
        )


@contextmanager
def progress(count: int, as_json: bool, *, searching: bool) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = console.is_terminal and not console.is_dumb_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bars:
        yield Bar(bars, count, as_json, searching)
