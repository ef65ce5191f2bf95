"""What `tiderank fit` and `tiderank score` do: files in, a trained model or predictions out."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ranker.arrays import F64
from ranker.tabular.columns import Found, find_columns
from ranker.tabular.config import FitConfig, SearchConfig
from ranker.tabular.encoding import Encoded, Encoder, learn_encoder
from ranker.tabular.metrics import Grades, grade
from ranker.tabular.model import TabularModel
from ranker.tabular.saved import load_model, save_model
from ranker.tabular.search import Trial, search
from ranker.tabular.training import Epoch
from streams.datasets.addresses import FORMATS
from streams.datasets.files import read_table, reading
from streams.datasets.options import TableOptions
from streams.errors import StartError
from streams.fit.files import HELD_OUT, FitFiles, labels, write_table

PREDICTION = "p"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The files, encoded by what the training rows say."""

    found: list[Found]
    encoder: Encoder
    train: Encoded
    valid: Encoded
    test: Encoded | None
    extra: dict[str, list[str]]
    """Columns, by file, that training does not have; they are left aside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    prepared: Prepared
    model: TabularModel
    best: Epoch
    chosen: Trial
    trials: list[Trial]
    """What was tried: one trial without a search."""
    grades: Grades
    """Grades on the test file where there is one, else on validation."""
    seconds: float
    saved: Path | None

    def as_dict(self) -> dict[str, Any]:
        prepared = self.prepared
        return {
            "auc": self.grades.auc,
            "logloss": self.grades.logloss,
            "normalized_entropy": self.grades.normalized_entropy,
            "graded_on": "validation" if prepared.test is None else "test",
            "rows": {"train": len(prepared.train), "valid": len(prepared.valid), "test": len(prepared.test or ())},
            "columns": [asdict(column) for column in prepared.found],
            "parameters": self.model.parameters_of,
            "epochs": len(self.chosen.epochs),
            "best_epoch": self.best.number,
            "seconds": round(self.seconds, 3),
            "history": [asdict(epoch) for epoch in self.chosen.epochs],
            "trials": [_trial_as_dict(trial) for trial in self.trials],
            "chosen_trial": self.chosen.number,
            "config": asdict(self.chosen.config),
            "model": None if self.saved is None else str(self.saved),
        }


def _trial_as_dict(trial: Trial) -> dict[str, Any]:
    best = trial.best
    return {
        "number": trial.number,
        "settings": trial.settings,
        "logloss": best and best.valid.logloss,
        "auc": best and best.valid.auc,
        "epochs": len(trial.epochs),
        "best_epoch": best and best.number,
        "seconds": round(trial.seconds, 3),
        "cut": trial.cut,
    }


def prepare(files: FitFiles, *, seed: int) -> Prepared:
    """Read and encode. Raises StartError for what a person must mend."""
    told_text = set(files.categorical)
    table = read_table(files.train, files.options, text=told_text)
    label_N = labels(table, files.label, files.train, both=True)
    with reading(files.train):
        found = find_columns(
            table,
            label=files.label,
            categorical=files.categorical,
            numeric=files.numeric,
            ignore=files.ignore,
        )
    held_out_N = hold_out(len(label_N), seed) if files.valid is None else np.zeros(len(label_N), bool)
    learned, learned_label = table.filter(~held_out_N), label_N[~held_out_N]
    with reading(files.train):
        encoder = learn_encoder(learned, found, min_count=files.min_count, buckets=files.buckets)
        data = encoder.encode(learned, learned_label)
    extra: dict[str, list[str]] = {}

    def other(path: str, *, both: bool) -> Encoded:
        text = told_text | {c.name for c in encoder.categorical if c.text}
        rows = read_table(path, files.options, text=text)
        if beside := [name for name in rows.column_names if name not in table.column_names]:
            extra[path] = beside
        with reading(path):
            return encoder.encode(rows, labels(rows, files.label, path, both=both))

    if files.valid is None:
        valid = encoder.encode(table.filter(held_out_N), label_N[held_out_N])
        _check_split(data, valid, files)
    else:
        valid = other(files.valid, both=True)
    test = None if files.test is None else other(files.test, both=False)
    return Prepared(found=found, encoder=encoder, train=data, valid=valid, test=test, extra=extra)


def fit(
    files: FitFiles,
    prepared: Prepared,
    config: FitConfig,
    within: SearchConfig,
    *,
    save_to: Path | None = None,
    on_trial: Callable[[Trial, bool], None] = lambda trial, best: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> FitResult:
    """Train, grade and, where asked to, save. Callbacks are those of `search`.

    Raises StartError before it learns where it could not save.
    """
    started = time.perf_counter()
    if save_to is not None:
        _check_folder(save_to)
    found = search(
        prepared.encoder,
        prepared.train,
        prepared.valid,
        config,
        within,
        on_trial=on_trial,
        on_epoch=on_epoch,
        on_rows=on_rows,
    )
    model, best = found.model, found.chosen.best
    if best is None:
        raise StartError("no epoch's predictions were finite: the weights ran away; lower --rate and --row-rate")
    last = prepared.valid if prepared.test is None else prepared.test
    grades = grade(last.label_N.double().numpy(), model.predict(last))
    if save_to is not None:
        try:
            save_model(save_to, model, prepared.encoder, label=files.label, null_words=files.options.null_words)
        except OSError as error:
            raise StartError(f"the model cannot be saved to {save_to}: {error}") from error
    return FitResult(
        prepared=prepared,
        model=model,
        best=best,
        chosen=found.chosen,
        trials=found.trials,
        grades=grades,
        seconds=time.perf_counter() - started,
        saved=save_to,
    )


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"the model cannot be saved to {folder}, which must be a folder: {error}") from error


def hold_out(count: int, seed: int) -> npt.NDArray[np.bool_]:
    """[count], true for a share of HELD_OUT, drawn by seed: what validates rather than teaches."""
    held_out_N = np.zeros(count, bool)
    held_out_N[np.random.default_rng(seed).permutation(count)[: max(1, round(count * HELD_OUT))]] = True
    return held_out_N


@dataclass(frozen=True, slots=True)
class Scored:
    probability_N: F64
    grades: Grades | None = field(default=None)
    """None without labels."""


def score(
    folder: Path,
    path: str,
    *,
    out: Path | None = None,
    label: str | None = None,
    null_words: tuple[str, ...] = (),
    encoding: str | None = None,
) -> Scored:
    """Score the table at an address by a saved model; `out` gets its columns and the probability.

    null_words: those of the table; where there are none, those that the model was fitted with. Raises StartError for
    what a person must mend.
    """
    if out is not None and out.suffix not in FORMATS:
        raise StartError(f"scores go to a {' or '.join(FORMATS)} file, got {out.name!r}")
    with reading(folder):
        model, manifest = load_model(folder)
    options = TableOptions(null_words=null_words or manifest.null_words, encoding=encoding)
    table = read_table(path, options, text=[c.name for c in manifest.encoder.categorical if c.text])
    with reading(path):
        probability_N = model.predict(manifest.encoder.encode(table))
    grades = None
    if label is not None:
        grades = grade(labels(table, label, path, both=False).double().numpy(), probability_N)
    if out is not None:
        if PREDICTION in table.column_names:
            table = table.drop_columns([PREDICTION])
        write_table(table.append_column(PREDICTION, [probability_N]), out)
    return Scored(probability_N, grades)


def _check_split(data: Encoded, valid: Encoded, files: FitFiles) -> None:
    for part in (data, valid):
        if not len(part) or bool(torch.all(part.label_N == part.label_N[0])):
            raise StartError(
                f"{files.train} is too small to hold rows out of it: each part needs rows of both labels; give --valid"
            )
