"""How does the model compare with logistic regression and boosted trees on plain tables, at its defaults?

    python -m benchmarks.tabular [--seeds 3] [--table movielens] [--table synthetic]
    python -m benchmarks.tabular --ours --width 16 --width 48      # does a wider embedding pay?

MovieLens-100K as clicks (a rating of 4 or more), ten columns, split at random into 80, 10 and 10 %; and a generated
table whose truth is known: effects of each column, of pairs of columns, and of numbers that no line fits. Each seed
splits, initializes and shuffles anew; figures are medians over seeds with their range, on the test rows. Logistic
regression is on one-hot columns, its penalty chosen on the validation rows; trees (HistGradientBoosting) stop early on
a share of their own; the base rate is the share of clicks in training. Ours is graded on the validation rows too: what
its settings were chosen by. One thread; seconds are of the wall and of the processor, reading the columns included.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import torch
from scipy.sparse import csr_matrix, hstack
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from ranker.arrays import F64
from ranker.tabular.columns import find_columns
from ranker.tabular.config import FitConfig
from ranker.tabular.encoding import Encoded, learn_encoder
from ranker.tabular.metrics import grade
from ranker.tabular.training import build_model, train
from streams.datasets.logs.fetch import RECBOLE, data_file
from streams.fit.files import FitFiles

LABEL, TRUTH = "click", "truth"
SIZES = (5, 10, 20, 50, 200, 1000, 3000)
PAIRS = ((0, 3), (1, 4), (2, 5), (4, 6))
TREE_CATEGORIES = 254
Model = Callable[[list[Any], int], tuple[F64, str]]
"""From the three parts and a seed to the test rows' probabilities, and a note."""


def movielens() -> Any:
    """100,000 rows."""

    def atomic(name: str) -> Any:
        path = data_file(RECBOLE, f"recbole/dataset_example/ml-100k/ml-100k.{name}")
        parse = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
        table = pyarrow.csv.read_csv(path, parse_options=parse)
        return table.rename_columns([column.split(":")[0] for column in table.column_names])

    table = atomic("inter").join(atomic("user"), "user_id").join(atomic("item"), "item_id").sort_by("timestamp")
    table = table.sort_by([("timestamp", "ascending"), ("user_id", "ascending"), ("item_id", "ascending")])
    seconds = table["timestamp"].to_numpy().astype(np.int64)
    return pa.table(
        {
            "user_id": table["user_id"],
            "item_id": table["item_id"],
            "age": table["age"],
            "gender": table["gender"],
            "occupation": table["occupation"],
            "zip_code": table["zip_code"].cast(pa.string()),
            "genre": pc.list_element(pc.split_pattern(table["class"], " "), 0),
            "year": table["release_year"].cast(pa.string()),
            "hour": seconds // 3600 % 24,
            "weekday": seconds // 86_400 % 7,
            LABEL: pc.greater_equal(table["rating"], 4).cast(pa.int64()),
        }
    )


def synthetic(rows: int = 200_000) -> Any:
    """Seven categorical columns, three numeric, and the true probability."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    ids, logit_N = [], np.full(rows, -1.5)
    for i, size in enumerate(SIZES):
        popularity = 1 / np.arange(1, size + 1) ** 0.8
        id_N = rng.choice(size, rows, p=popularity / popularity.sum())
        logit_N += rng.normal(0, 0.35, size)[id_N]
        ids.append(id_N)
        columns[f"c{i}"] = pa.array(np.char.add("v", id_N.astype(str)))
    for i, j in PAIRS:
        left, right = rng.normal(size=(SIZES[i], 4)), rng.normal(size=(SIZES[j], 4))
        logit_N += 0.35 * (left[ids[i]] * right[ids[j]]).sum(1)
    x_N, y_N, z_N = rng.normal(size=rows), rng.lognormal(size=rows), rng.normal(size=rows)
    logit_N += 0.8 * np.sin(2.5 * x_N) + 0.28 * (np.log(y_N) ** 2 - 1) + 0.15 * z_N * (ids[0] - 2)
    truth_N = 1 / (1 + np.exp(-logit_N))
    columns |= {"x": x_N, "y": np.where(rng.random(rows) < 0.05, np.nan, y_N), "z": z_N}
    return pa.table(columns | {LABEL: (rng.random(rows) < truth_N).astype(int), TRUTH: truth_N})


def ours(parts: list[Any], seed: int, *, width: int) -> tuple[F64, str]:
    """As `tiderank fit --embedding-width WIDTH` does it."""
    defaults = FitFiles(train=__file__, label=LABEL)
    parts = [part.select([c for c in part.column_names if c != TRUTH]) for part in parts]
    encoder = learn_encoder(
        parts[0], find_columns(parts[0], label=LABEL), min_count=defaults.min_count, buckets=defaults.buckets
    )
    data: list[Encoded] = [encoder.encode(p, torch.from_numpy(_label(p).astype(np.float32))) for p in parts]
    config = replace(FitConfig(), embedding_width=width, seed=seed)
    model = build_model(encoder, config, click_prior=float(data[0].label_N.mean()))
    epochs = train(model, data[0], data[1], config)
    best = max((epoch for epoch in epochs if epoch.best), key=lambda epoch: epoch.number)
    ended = "cut off" if len(epochs) == config.epochs_max else "stopped"
    note = f"best epoch {best.number}, {ended} after {len(epochs)}, validation log loss {best.valid.logloss:.4f}"
    return model.predict(data[2]), note


def logistic(parts: list[Any], seed: int) -> tuple[F64, str]:
    texts, numbers = zip(*(_columns(part) for part in parts), strict=True)
    one_hot = OneHotEncoder(handle_unknown="ignore").fit(texts[0])
    mean, std = np.nanmean(numbers[0], axis=0), np.nanstd(numbers[0], axis=0)
    inputs = [
        hstack([one_hot.transform(t), csr_matrix(np.nan_to_num((n - mean) / std))]).tocsr()
        for t, n in zip(texts, numbers, strict=True)
    ]
    best: tuple[float, F64, str] | None = None
    for strength in (0.03, 0.1, 0.3, 1.0):
        model = LogisticRegression(C=strength, max_iter=500).fit(inputs[0], _label(parts[0]))
        loss = grade(_label(parts[1]), model.predict_proba(inputs[1])[:, 1]).logloss
        if best is None or loss < best[0]:
            best = loss, model.predict_proba(inputs[2])[:, 1], f"C={strength}"
    assert best is not None
    return best[1], best[2]


def trees(parts: list[Any], seed: int) -> tuple[F64, str]:
    """Columns of more categories than the trees take are numbers to them, in order of their names."""
    texts, numbers = zip(*(_columns(part) for part in parts), strict=True)
    known = [np.unique(column) for column in texts[0].T]
    inputs = []
    for text, number in zip(texts, numbers, strict=True):
        codes = np.stack([np.searchsorted(k, c) for k, c in zip(known, text.T, strict=True)], axis=1).astype(float)
        unseen = np.stack([~np.isin(c, k) for k, c in zip(known, text.T, strict=True)], axis=1)
        inputs.append(np.hstack([np.where(unseen, np.nan, codes), number]))
    few = [i for i, k in enumerate(known) if len(k) <= TREE_CATEGORIES]
    model = HistGradientBoostingClassifier(
        categorical_features=few, early_stopping=True, max_iter=500, random_state=seed
    ).fit(inputs[0], _label(parts[0]))
    return model.predict_proba(inputs[2])[:, 1], f"{model.n_iter_} trees"


def base_rate(parts: list[Any], seed: int) -> tuple[F64, str]:
    rate = float(_label(parts[0]).mean())
    return np.full(parts[2].num_rows, rate), f"{rate:.3f}"


def truth(parts: list[Any], seed: int) -> tuple[F64, str]:
    probability_N: F64 = parts[2][TRUTH].to_numpy()
    return probability_N, ""


TABLES: dict[str, Callable[[], Any]] = {"movielens": movielens, "synthetic": synthetic}


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--table", "names", multiple=True, type=click.Choice(list(TABLES)), default=list(TABLES))
@click.option("--width", "widths", multiple=True, type=int, default=[FitConfig().embedding_width], show_default=True)
@click.option("--ours", "alone", is_flag=True, help="Without the rivals.")
def main(seeds: int, names: tuple[str, ...], widths: tuple[int, ...], alone: bool) -> None:
    torch.set_num_threads(1)
    print(
        f"{'table':<10} {'model':<9} {'AUC (range)':<26} {'log loss (range)':<26} {'wall s':>6} {'cpu s':>6}  by seed"
    )
    for name in names:
        table = TABLES[name]()
        models: dict[str, Model] = {f"ours {width}": partial(ours, width=width) for width in widths}
        if not alone:
            models |= {"logistic": logistic, "trees": trees, "base_rate": base_rate}
            models |= {"truth": truth} if TRUTH in table.column_names else {}
        for called, model in models.items():
            runs = [_run(model, split(table, seed), seed) for seed in range(seeds)]
            print(
                f"{name:<10} {called:<9} {_spread([r.auc for r in runs]):<26} "
                f"{_spread([r.logloss for r in runs]):<26} {statistics.median(r.wall_s for r in runs):>6.1f} "
                f"{statistics.median(r.processor_s for r in runs):>6.1f}  {'; '.join(r.note for r in runs)}",
                flush=True,
            )


@dataclass(frozen=True, slots=True)
class _Run:
    """One model on one split: graded on the test rows."""

    auc: float
    logloss: float
    wall_s: float
    processor_s: float
    note: str


def _run(model: Model, parts: list[Any], seed: int) -> _Run:
    wall, processor = time.perf_counter(), time.process_time()
    predicted, note = model(parts, seed)
    wall_s, processor_s = time.perf_counter() - wall, time.process_time() - processor
    grades = grade(_label(parts[2]), predicted)
    return _Run(grades.auc or 0.0, grades.logloss, wall_s, processor_s, note)


def split(table: Any, seed: int) -> list[Any]:
    """Train, validation and test: 80, 10 and 10 %, at random."""
    drawn = np.random.default_rng(seed).permutation(table.num_rows)
    ends = [round(share * table.num_rows) for share in (0.8, 0.9)]
    return [table.take(np.sort(part)) for part in np.split(drawn, ends)]


def _label(part: Any) -> F64:
    label_N: F64 = part[LABEL].to_numpy().astype(np.float64)
    return label_N


def _columns(part: Any) -> tuple[Any, F64]:
    """Categories as text [N, C], numbers [N, F]."""
    names = [c for c in part.column_names if c not in (LABEL, TRUTH)]
    numeric = [c for c in names if pa.types.is_floating(part[c].type)]
    texts = [np.asarray(part[c].cast(pa.string()).to_pylist(), str) for c in names if c not in numeric]
    numbers = [part[c].to_numpy() for c in numeric]
    return np.stack(texts, axis=1), np.stack(numbers, axis=1) if numbers else np.empty((part.num_rows, 0))


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.4f} [{min(values):.4f}, {max(values):.4f}]"


if __name__ == "__main__":
    main()
