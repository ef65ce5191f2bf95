"""What is a policy for delayed conversions worth?

    python -m benchmarks.delayed [--seeds 3] [--clicks 800] [--elapsed 1.0] [--rate 3e-3]

A generated stream of clicks: five categorical features whose effects drift (half-lives of 8 to 12 days; those of the
last two stay), pairs of features, and conversions as late as on Criteo's stream: about 40 % within an hour, half
within a day, the rest over up to 30 days; how many are quick, and how slow the others are, depends on features. The
attribution window is 30 days.

`frozen` has learned the clicks of days 0 to 30, with all their labels, and nothing since. The others go on from it,
hour by hour, from what their policy has the stream emit in that hour (conversions of days 0 to 30 included); `oracle`
is told each label at its click. Graded are days 60 to 67: what was learned up to hour t is tested on the clicks of hour
t + 1 and their true labels. So `frozen` is 30 to 37 days old, as old as complete labels are.

All share the loss code of the product's learner (ranker/delayed), a small model (embeddings, pairs, one hidden
layer), the initial weights, and four steps an hour. AUC and PR-AUC are means over hours, NLL the mean over clicks.
"""

import argparse
import statistics
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from benchmarks.lab.report import machine
from ranker.arrays import F64, I64
from ranker.delayed.policies import POLICIES, Emission, Policy, PolicyName
from ranker.delayed.weights import late_loss, targets

SIZES = (300, 60, 20, 8, 4)
HALF_LIVES_H = (8 * 24, 10 * 24, 12 * 24, None, None)
"""Hours, for each feature, after which half of an effect is another; None: never."""
SPREADS = (0.55, 0.45, 0.4, 0.3, 0.3)
"""Standard deviations of each feature's effects, in logits."""
PAIRS = ((0, 3), (1, 4), (2, 3))
WINDOW_H = 30 * 24
START_H, TEST_H, END_H = 30 * 24, 60 * 24, 67 * 24
WIDTH = 8
STEPS_AN_HOUR = 4


@dataclass(frozen=True, slots=True)
class Clicks:
    """C clicks in order of time."""

    hour_C: F64
    features_CF: I64
    """Rows of one table of embeddings."""
    converts_C: npt.NDArray[np.bool_]
    delay_C: F64
    """Hours from click to conversion, below WINDOW_H; of no meaning where there is none."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """N examples in the order in which a policy's stream emits them."""

    hour_N: F64
    click_N: I64
    emission_N: Tensor


@dataclass(frozen=True, slots=True)
class Grades:
    auc: float
    pr_auc: float
    nll: float


def generate(seed: int, clicks_an_hour: int) -> Clicks:
    rng = np.random.default_rng(seed)
    C = END_H * clicks_an_hour
    hour_C = np.sort(rng.random(C) * END_H)
    id_FC = []
    for size in SIZES:
        popularity = 1 / np.arange(1, size + 1) ** 0.8
        id_FC.append(rng.choice(size, C, p=popularity / popularity.sum()))
    logit_C = np.full(C, -1.75)
    for id_C, size, half_life, spread in zip(id_FC, SIZES, HALF_LIVES_H, SPREADS, strict=True):
        logit_C += _effects(rng, size, half_life, spread)[hour_C.astype(int), id_C]
    for i, j in PAIRS:
        left, right = rng.normal(size=(SIZES[i], 3)), rng.normal(size=(SIZES[j], 3))
        logit_C += 0.25 * (left[id_FC[i]] * right[id_FC[j]]).sum(1)
    converts_C = rng.random(C) < 1 / (1 + np.exp(-logit_C))
    features_CF = np.stack(id_FC, axis=1) + np.cumsum([0, *SIZES[:-1]])
    return Clicks(hour_C, features_CF, converts_C, _delays(rng, id_FC))


def _effects(rng: np.random.Generator, size: int, half_life: int | None, spread: float) -> F64:
    """[hours, ids]: each a mean-reverting random walk with the same spread at all times."""
    keep = 1.0 if half_life is None else 0.5 ** (1 / half_life)
    effects = rng.normal(0, spread, (END_H, size))
    for hour in range(1, END_H):
        effects[hour] = keep * effects[hour - 1] + np.sqrt(1 - keep**2) * effects[hour]
    return effects


def _delays(rng: np.random.Generator, id_FC: list[I64]) -> F64:
    C = len(id_FC[0])
    quick_logit_C = -0.4 + rng.normal(0, 0.7, SIZES[1])[id_FC[1]] + rng.normal(0, 0.6, SIZES[3])[id_FC[3]]
    quick_C = rng.random(C) < 1 / (1 + np.exp(-quick_logit_C))
    median_C = 60 * np.exp(rng.normal(0, 0.5, SIZES[2])[id_FC[2]])
    delay_C = np.full(C, np.inf)
    while (beyond_C := delay_C >= WINDOW_H).any():
        slow_C = median_C[beyond_C] * np.exp(rng.normal(0, 1.3, int(beyond_C.sum())))
        delay_C[beyond_C] = np.where(quick_C[beyond_C], rng.exponential(0.35, len(slow_C)), slow_C)
    return delay_C


def emit(policy: Policy, clicks: Clicks, elapsed_h: float, *, at_once: bool) -> Emitted:
    """All examples of these clicks under a policy. at_once: the final labels come with the clicks."""
    wait_h = elapsed_h if policy.provisional == "elapsed" else 0.0
    converts_C, none_C = clicks.converts_C, ~clicks.converts_C
    provisional_C = np.full(len(none_C), policy.provisional != "none") & (none_C | (clicks.delay_C > wait_h))
    if at_once:
        final_hour_C = clicks.hour_C
    else:
        final_hour_C = clicks.hour_C + np.where(converts_C, clicks.delay_C, WINDOW_H)
    final_C = np.where(converts_C, np.where(provisional_C, Emission.CORRECTED, Emission.CONVERTED), Emission.CLOSED)
    hour_N = np.concatenate([clicks.hour_C[provisional_C] + wait_h, final_hour_C])
    click_N = np.concatenate([np.flatnonzero(provisional_C), np.arange(len(none_C))])
    emission_N = np.concatenate([np.full(int(provisional_C.sum()), Emission.PROVISIONAL), final_C]).astype(np.int64)
    learned = np.flatnonzero(np.array(policy.times)[emission_N])
    order = learned[np.argsort(hour_N[learned], kind="stable")]
    return Emitted(hour_N[order], click_N[order], torch.from_numpy(emission_N[order]))


class Model(nn.Module):
    """Two logits of a click: it converts; and if so, late."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        fields, rows = len(SIZES), sum(SIZES)
        self.pairs = torch.triu_indices(fields, fields, 1)
        self.rows = nn.Embedding(rows, WIDTH)
        nn.init.normal_(self.rows.weight, std=0.1)
        self.direct = nn.Embedding(rows, 2)
        nn.init.zeros_(self.direct.weight)
        self.hidden = nn.Linear(fields * WIDTH + self.pairs.shape[1], 32)
        self.out = nn.Linear(32, 2)

    def forward(self, features_NF: Tensor) -> Tensor:
        rows_NFD = self.rows(features_NF)
        i, j = self.pairs
        pairs_NP = (rows_NFD[:, i] * rows_NFD[:, j]).sum(2)
        hidden_Nh = F.relu(self.hidden(torch.cat([rows_NFD.flatten(1), pairs_NP], dim=1)))
        return self.out(hidden_Nh) + self.direct(features_NF).sum(1)  # type: ignore[no-any-return]


class Run:
    """One policy from its first example to its grades; frozen and oracle learn what `wait` does, never and at once."""

    def __init__(self, name: str, clicks: Clicks, seed: int, rate: float, elapsed_h: float) -> None:
        self._name = name
        self._policy: PolicyName = next((policy for policy in POLICIES if policy == name), "wait")
        self._learns_late = POLICIES[self._policy].learns_late
        self._elapsed_h = elapsed_h
        self._clicks = clicks
        self._features_CF = torch.from_numpy(clicks.features_CF)
        self._model = Model(seed)
        self._adam = torch.optim.Adam(self._model.parameters(), lr=rate)
        self._batch = int(len(clicks.hour_C) / END_H / STEPS_AN_HOUR)

    def learn(self, policy: PolicyName, click_N: I64, emission_N: Tensor) -> None:
        """One step; a sum over examples, so that a policy that emits more of them does not take smaller steps."""
        logit_N, late_logit_N = self._model(self._features_CF[click_N]).unbind(1)
        found = targets(policy, emission_N, logit_N.sigmoid(), late_logit_N.sigmoid())
        loss = F.binary_cross_entropy_with_logits(logit_N, found.label_N, weight=found.weight_N, reduction="sum")
        if self._learns_late:
            loss = loss + late_loss(late_logit_N, emission_N)
        self._adam.zero_grad()
        (loss / self._batch).backward()  # type: ignore[no-untyped-call]
        self._adam.step()

    def pretrain(self) -> None:
        """From the true labels of the old period, in order of time; the second logit from its delays."""
        old = int(np.searchsorted(self._clicks.hour_C, START_H))
        converted_C = np.where(self._clicks.delay_C > self._elapsed_h, Emission.CORRECTED, Emission.CONVERTED)
        emission_C = np.where(self._clicks.converts_C, converted_C, Emission.CLOSED).astype(np.int64)
        for begin in range(0, old, self._batch):
            click_N = np.arange(begin, min(begin + self._batch, old))
            self.learn("wait", click_N, torch.from_numpy(emission_C[click_N]))

    def stream(self) -> Grades:
        """Hour by hour."""
        hours = np.arange(START_H, END_H + 1)
        click_at = np.searchsorted(self._clicks.hour_C, hours)
        emitted = emit(POLICIES[self._policy], self._clicks, self._elapsed_h, at_once=self._name == "oracle")
        emitted_at = np.searchsorted(emitted.hour_N, hours)
        graded = []
        for n in range(len(hours) - 1):
            if hours[n] >= TEST_H:
                graded.append(self._grade(slice(click_at[n], click_at[n + 1])))
            if self._name == "frozen":
                continue
            for part in np.array_split(np.arange(emitted_at[n], emitted_at[n + 1]), STEPS_AN_HOUR):
                self.learn(self._policy, emitted.click_N[part], emitted.emission_N[part])
        counts = [len(label_n) for label_n, _ in graded]
        nll = [F.binary_cross_entropy(torch.from_numpy(p_n), torch.from_numpy(y_n)).item() for y_n, p_n in graded]
        return Grades(
            statistics.fmean(roc_auc_score(y_n, p_n) for y_n, p_n in graded),
            statistics.fmean(average_precision_score(y_n, p_n) for y_n, p_n in graded),
            float(np.average(nll, weights=counts)),
        )

    @torch.no_grad()
    def _grade(self, hour: slice) -> tuple[F64, F64]:
        logit_n: Tensor = self._model(self._features_CF[hour])[:, 0]
        return self._clicks.converts_C[hour].astype(np.float64), logit_n.double().sigmoid().numpy()


NAMES = ("frozen", *POLICIES, "oracle")


def _cell(values: list[float]) -> str:
    spread = f" ±{statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def _closed(grades: dict[str, list[Grades]], name: str) -> str:
    triples = zip(grades[name], grades["frozen"], grades["oracle"], strict=True)
    shares = [(one.auc - low.auc) / (high.auc - low.auc) for one, low, high in triples]
    return f"{statistics.fmean(shares):7.1%} ({' '.join(f'{s:.1%}' for s in shares)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clicks", type=int, default=800, help="an hour")
    parser.add_argument("--elapsed", type=float, default=1.0, help="hours that es_dfm and defer wait")
    parser.add_argument("--rate", type=float, default=3e-3, help="of Adam")
    options = parser.parse_args()
    if options.clicks < 50:
        parser.error(f"--clicks must be at least 50, so that every hour has conversions to grade; got {options.clicks}")
    torch.set_num_threads(1)
    began = time.process_time()
    grades: dict[str, list[Grades]] = {name: [] for name in NAMES}
    print(f"{options.seeds} seeds, {options.clicks} clicks an hour; {machine()}", flush=True)
    for seed in range(options.seeds):
        clicks = generate(seed, options.clicks)
        delay_n = clicks.delay_C[clicks.converts_C]
        within = ", ".join(f"{(delay_n < h).mean():.0%} within {h} h" for h in (1, 24, 14 * 24))
        print(f"seed {seed}: {clicks.converts_C.mean():.1%} of clicks convert, {within}", flush=True)
        for name in NAMES:
            one = Run(name, clicks, seed, options.rate, options.elapsed)
            one.pretrain()
            grades[name].append(one.stream())
    print(f"{'':<14}{'AUC':<17}{'PR-AUC':<17}{'NLL':<17}of the gap frozen → oracle in AUC, each seed")
    for name, found in grades.items():
        columns = "".join(f"{_cell([getattr(g, field) for g in found]):<17}" for field in ("auc", "pr_auc", "nll"))
        print(f"{name:<14}{columns}{_closed(grades, name)}")
    print(f"mean ± standard deviation over seeds; {time.process_time() - began:.0f} s of processor")


if __name__ == "__main__":
    main()
