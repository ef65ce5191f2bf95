"""Settings chosen by validation within a given time: a random search whose first trial is the settings as given.

Random rather than one setting after another, as few of them matter on one table and which ones differs between tables
(Bergstra & Bengio, 2012). How many epochs is no setting here: early stopping chooses it in each trial.
"""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from ranker.tabular.config import SPACE, FitConfig, SearchConfig
from ranker.tabular.encoding import Encoded, Encoder
from ranker.tabular.model import TabularModel
from ranker.tabular.training import Epoch, Stopped, build_model, rows_a_step, train


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One set of settings, and what validation says of it."""

    number: int
    """Number of the trial, from 1."""
    config: FitConfig
    epochs: list[Epoch]
    seconds: float
    cut: bool
    """Whether the deadline ended it before early stopping did."""

    @property
    def best(self) -> Epoch | None:
        """The epoch that was kept; None where no epoch's predictions were finite."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.best), None)

    @property
    def logloss(self) -> float:
        """What trials are compared by: the log loss on validation of the epoch that was kept."""
        return float("inf") if self.best is None else self.best.valid.logloss

    @property
    def settings(self) -> dict[str, float]:
        """Values of what SPACE names."""
        return {name: _value(self.config, name) for name in SPACE}


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a search came to."""

    model: TabularModel
    chosen: Trial
    trials: list[Trial]


def search(
    encoder: Encoder,
    data: Encoded,
    valid: Encoded,
    config: FitConfig,
    within: SearchConfig,
    *,
    on_trial: Callable[[Trial, bool], None] = lambda trial, best: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_rows: Callable[[int], None] = lambda rows: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Found:
    """Train by `config`, then by others that differ from it in `within.names`; the least loss on `valid` is kept.

    Others come in an order that the seed alone decides. None is begun that, taking as long as the longest so far, would
    not end in time; one that takes longer still is cut at the deadline, and counts by its best epoch till then. The
    first is given one epoch, however little time there is. on_trial hears whether the trial is the best so far.

    on_rows may raise Stopped, as in `train`: the search ends, and Stopped goes on where no epoch has ended.
    """
    watch = _Watch(clock, clock() + within.seconds, on_epoch, on_rows)
    trials: list[Trial] = []
    kept: tuple[TabularModel, Trial] | None = None
    for tried in candidates(config, within.names, len(data)):
        if trials and clock() + max(trial.seconds for trial in trials) > watch.deadline:
            break
        started = clock()
        model = build_model(encoder, tried, click_prior=float(data.label_N.mean()))
        try:
            epochs = train(model, data, valid, tried, on_epoch=watch.epoch, on_rows=watch.rows)
        except Stopped:
            if kept is None:
                raise
            break
        took, cut = clock() - started, clock() >= watch.deadline
        trial = Trial(number=len(trials) + 1, config=tried, epochs=epochs, seconds=took, cut=cut)
        trials.append(trial)
        better = kept is None or trial.logloss < kept[1].logloss
        if better:
            kept = model, trial
        on_trial(trial, better)
    assert kept is not None  # the first candidate is always tried
    return Found(model=kept[0], chosen=kept[1], trials=trials)


@dataclass(slots=True)
class _Watch:
    """Stops training at the deadline, but not before some epoch has ended."""

    clock: Callable[[], float]
    deadline: float
    on_epoch: Callable[[Epoch], None]
    on_rows: Callable[[int], None]
    any_epoch: bool = False

    def epoch(self, epoch: Epoch) -> None:
        self.any_epoch = True
        self.on_epoch(epoch)

    def rows(self, count: int) -> None:
        self.on_rows(count)
        if self.any_epoch and self.clock() >= self.deadline:
            raise Stopped


def candidates(config: FitConfig, names: Collection[str], rows: int) -> Iterator[FitConfig]:
    """The configuration itself, then each other of the space once. Batches that a table so small cuts are one."""
    yield config
    space: dict[str, list[Any]] = {name: [_value(config, name)] for name in SPACE}
    space |= {name: list(SPACE[name]) for name in names}
    space["batch"] = list(dict.fromkeys(rows_a_step(batch, rows) for batch in space["batch"]))
    others = [_changed(config, dict(zip(space, values, strict=True))) for values in product(*space.values())]
    same = replace(config, batch=rows_a_step(config.batch, rows))
    for index in np.random.default_rng(config.seed).permutation(len(others)):
        if others[index] != same:
            yield others[index]


def _value(config: FitConfig, name: str) -> Any:
    return getattr(config.tier if name == "dropout" else config, name)


def _changed(config: FitConfig, settings: dict[str, Any]) -> FitConfig:
    tier = replace(config.tier, dropout=settings["dropout"])
    return replace(config, tier=tier, **{name: value for name, value in settings.items() if name != "dropout"})
