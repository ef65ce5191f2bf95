"""`tiderank fit` and `tiderank score`."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ranker.tabular.config import SPACE, FitConfig, SearchConfig
from ranker.tabular.tiers import DEFAULT_TIER, TIERS
from streams.errors import StartError
from streams.fit.files import HELD_OUT, FitFiles
from streams.fit.printed import figures, option, progress, tell_chosen, tell_columns, tell_result
from streams.options import SEED, Finite, path, table_options, tables

DEFAULT = FitConfig()
FILES = FitFiles(train="", label="")


def _names(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _columns(name: str, what: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", default="", callback=_names, metavar="A,B", help=what)


def _knob(name: str, kind: Any, default: object, what: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", type=kind, default=default, show_default=True, help=what)


def _tier_knob(name: str, most: int, what: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", type=click.IntRange(1, most), help=f"{what}  [default: the tier's]")


@click.command("fit")
@click.argument("train")
@click.option("--valid", help=f"For early stopping. Without it, {HELD_OUT:.0%} of TRAIN are held out.")
@click.option("--test", help="For the final figures. Without it they are those of validation.")
@click.option("--label", required=True, help="Column of 0 and 1.")
@click.option("--model", "folder", type=path, metavar="DIR", help="Save the model here, for `tiderank score`.")
@_columns("categorical", "Columns of categories, whatever they look like.")
@_columns("numeric", "Columns of numbers, whatever they look like.")
@_columns("ignore", "Columns to leave aside.")
@table_options
@_knob("tier", click.Choice(list(TIERS)), DEFAULT_TIER, "Size of the model; the next three options overrule it.")
@_tier_knob("layers", 64, "Wukong layers.")
@_tier_knob("tokens", 1024, "Tokens that each block of a layer puts out.")
@_tier_knob("hidden", 65_536, "Width of the blocks' MLPs and of the head.")
@_knob("embedding-width", click.IntRange(1, 4096), DEFAULT.embedding_width, "Numbers a category is embedded by.")
@_knob("dropout", Finite(0, 1, max_open=True), DEFAULT.tier.dropout, "Share zeroed while learning.")
@_knob("weight-decay", Finite(0, 100), DEFAULT.weight_decay, "Of the tier's own weights.")
@_knob("embedding-l2", Finite(0, 100), DEFAULT.embedding_l2, "Of the embedding rows.")
@_knob("min-count", click.IntRange(1, 2**31), FILES.min_count, "Rarer categories share one row.")
@_knob("buckets", click.IntRange(2, 10_000), FILES.buckets, "Quantiles that a number is embedded by.")
@_knob("batch", click.IntRange(1, 2**31), DEFAULT.batch, "Rows a step, at most; a small table gets 50 steps an epoch.")
@_knob("rate", Finite(0, 1, min_open=True), DEFAULT.dense_rate, "Learning rate of the tier's own weights.")
@_knob("row-rate", Finite(0, 10, min_open=True), DEFAULT.row_rate, "Learning rate of the embedding rows.")
@_knob("epochs-max", click.IntRange(min=1), DEFAULT.epochs_max, "Stop after so many, come what may.")
@_knob("patience", click.IntRange(min=1), DEFAULT.patience, "Epochs to wait for an improvement.")
@click.option(
    "--search",
    "search_min",
    type=Finite(0, min_open=True),
    metavar="MINUTES",
    help="Choose embedding width, batch, embedding L2 and dropout by validation; those that are given stay.",
)
@_knob("seed", SEED, DEFAULT.seed, "Of weights, shuffling, what is held out and what a search tries.")
@_knob("threads", click.IntRange(1, 256), 1, "Of the arithmetic.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output, all else on the other."
)
def fit_command(
    train: str,
    folder: Path | None,
    search_min: float | None,
    threads: int,
    as_json: bool,
    null_words: tuple[str, ...],
    encoding: str | None,
    **options: Any,
) -> None:
    """Train the ranking model on a table of categories and numbers: TRAIN, a Parquet or CSV file's path or URL.

    Learns until validation (AUC less log loss) no longer improves, keeps the best epoch, and ends with its figures.
    Ctrl-C ends it with the best epoch so far, and exit status 130 unless a model was saved; a second one aborts.

    --search trains several models one after another, the first by the settings as they are, and keeps the one with the
    least log loss on validation. None is begun that, taking as long as the longest so far, would not end in time.
    """
    within = SearchConfig() if search_min is None else _search(search_min, click.get_current_context())
    _check(train, options["valid"], options["test"])
    import torch

    from ranker.tabular.training import Stopped
    from streams.fit.run import fit, prepare
    from streams.runtime.service import stop_signals

    torch.set_num_threads(threads)
    files = FitFiles(train=train, options=tables(null_words, encoding), **{n: options[n] for n in _FIELDS})
    config = _config(options)
    _warn_of_one_file_twice(files)
    prepared = prepare(files, seed=config.seed)
    with stop_signals() as stop, progress(len(prepared.train), as_json, searching=search_min is not None) as bar:
        tell_columns(prepared, files, as_json)

        def on_rows(count: int) -> None:
            bar.rows(count)
            if stop.is_set():
                raise Stopped

        try:
            result = fit(
                files, prepared, config, within, save_to=folder, on_trial=bar.trial, on_epoch=bar.epoch, on_rows=on_rows
            )
        except Stopped:
            click.echo("interrupted before the first epoch ended: there is no model to keep", err=True)
            sys.exit(130)
    if stop.is_set():
        click.echo("interrupted: the best epoch so far is kept", err=True)
    if search_min is not None:
        tell_chosen(result, as_json)
    tell_result(result, as_json)
    if as_json:
        click.echo(json.dumps(result.as_dict() | {"interrupted": stop.is_set()}))
    if stop.is_set() and folder is None:
        sys.exit(130)


@click.command("score")
@click.argument("folder", type=path, metavar="MODEL_DIR")
@click.argument("file")
@click.option("--out", type=path, help="Write FILE's columns and the probability p to this .parquet or .csv file.")
@click.option("--label", help="Column of 0 and 1: grade the predictions by it.")
@table_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
def score_command(
    folder: Path,
    file: str,
    out: Path | None,
    label: str | None,
    null_words: tuple[str, ...],
    encoding: str | None,
    as_json: bool,
) -> None:
    """Score the rows of FILE, a path or URL, by a model that `tiderank fit` saved.

    Without --null, the words that mean no value are those that the model was fitted with.
    """
    if out is None and label is None:
        raise StartError("nothing to do: name a file for the scores (--out), a label to grade by (--label), or both")
    _check(file)
    import torch

    from streams.fit.run import score

    torch.set_num_threads(1)
    tables(null_words, encoding)
    scored = score(folder, file, out=out, label=label, null_words=null_words, encoding=encoding)
    grades = scored.grades
    if as_json:
        found = {
            "rows": len(scored.probability_N),
            "mean_p": float(scored.probability_N.mean()),
            "out": out and str(out),
        }
        if grades is not None:
            found |= {"auc": grades.auc, "logloss": grades.logloss, "normalized_entropy": grades.normalized_entropy}
        click.echo(json.dumps(found))
        return
    click.echo(
        f"{len(scored.probability_N)} rows, mean p {scored.probability_N.mean():.4f}" + (f" → {out}" if out else "")
    )
    if grades is not None:
        click.echo(figures(grades))


def _search(minutes: float, ctx: click.Context) -> SearchConfig:
    """A search of what the command line leaves open. Raises UsageError where that is nothing."""
    names = tuple(n for n in SPACE if ctx.get_parameter_source(n) is ParameterSource.DEFAULT)
    if not names:
        given = " ".join(option(name) for name in SPACE)
        raise click.UsageError(f"--search has nothing to choose: all of {given} are given; leave one out")
    return SearchConfig(seconds=60 * minutes, names=names)


_FIELDS = ("valid", "test", "label", "categorical", "numeric", "ignore", "min_count", "buckets")


def _check(*addresses: str | None) -> None:
    """Before torch is imported, which takes seconds."""
    from streams.datasets.addresses import check_address

    for address in addresses:
        if address is not None:
            check_address(address)


def _config(options: dict[str, Any]) -> FitConfig:
    tokens = options["tokens"]
    told = {
        "layers": options["layers"],
        "fm_tokens": tokens,
        "compressed_tokens": tokens,
        "hidden": options["hidden"],
        "dropout": options["dropout"],
    }
    tier = replace(TIERS[options["tier"]], **{name: value for name, value in told.items() if value is not None})
    same = ("embedding_width", "batch", "row_rate", "weight_decay", "embedding_l2", "epochs_max", "patience", "seed")
    return FitConfig(tier=tier, dense_rate=options["rate"], **{name: options[name] for name in same})


def _warn_of_one_file_twice(files: FitFiles) -> None:
    seen = {
        "TRAIN": "its figures are of rows that were learned, and say nothing of new ones; give other rows",
        "--valid": "its figures are of the rows that chose the epoch, and so somewhat too good; give other rows",
    }
    roles = {"TRAIN": files.train, "--valid": files.valid, "--test": files.test}
    for (one, file), (other, again) in combinations(roles.items(), 2):
        if file and again and os.path.realpath(file) == os.path.realpath(again):
            click.echo(f"warning: {other} is the same file as {one}: {seen[one]}", err=True)
