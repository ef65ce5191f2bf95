"""Training on encoded rows until validation no longer improves."""

# N rows of a table, n of a minibatch.

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.config import ModelConfig
from ranker.tabular.config import AVERAGED_EVERY, FitConfig
from ranker.tabular.encoding import Encoded, Encoder
from ranker.tabular.metrics import Grades, grade
from ranker.tabular.model import TabularModel
from ranker.tabular.optimizer import RowAdam

MAX_GRAD_NORM = 10.0
EPOCH_STEPS, SMALLEST_BATCH = 50, 32


class Stopped(Exception):
    """Raised by train's on_rows: training is to end with the best epoch so far."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch came to."""

    number: int
    """Number of the epoch, from 1."""
    train_logloss: float
    """Mean over the epoch, while learning (so with dropout)."""
    valid: Grades
    rate: float
    """Factor by which the configuration's rates were multiplied."""
    best: bool
    seconds: float


def build_model(encoder: Encoder, config: FitConfig, *, click_prior: float) -> TabularModel:
    """A model for these columns that begins by predicting click_prior."""
    return TabularModel(
        ModelConfig(
            name="fit",
            slots=encoder.slots,
            tables=encoder.tables,
            tiers=(config.tier,),
            width=config.embedding_width,
            max_position=1,
            seed=config.seed,
            click_prior=click_prior,
            item_table=encoder.tables[0].name,
        )
    )


def rows_a_step(batch: int, rows: int) -> int:
    """`batch`, or what a table of so few rows is cut into."""
    return min(batch, max(rows // EPOCH_STEPS, SMALLEST_BATCH))


def train(
    model: TabularModel,
    data: Encoded,
    valid: Encoded,
    config: FitConfig,
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> list[Epoch]:
    """Learn `data` until `valid` no longer improves; the model is then that of the best epoch.

    Better is a larger AUC minus log loss: order and probabilities both count. Logits are calibrated on `valid` before
    they are graded. on_rows hears of each minibatch, with its rows; on_epoch of each epoch. Both classes must be among
    the labels of `valid`. The same inputs give the same weights on the same machine.

    Where on_rows raises Stopped, the epoch at hand is dropped and training ends; if it is the first, Stopped goes on.
    """
    trainer = _Trainer(model, config)
    shuffle = torch.Generator().manual_seed(config.seed)
    epochs: list[Epoch] = []
    best, best_weights, waited, drops, rate = float("-inf"), _weights(model), 0, 0, 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # of dropout
        while len(epochs) < config.epochs_max:
            started = time.perf_counter()
            try:
                loss = trainer.epoch(data, shuffle, on_rows)
            except Stopped:
                if not epochs:
                    raise
                break
            learning = _weights(model)
            model.load_state_dict(trainer.average)
            model.calibrate(valid)
            grades = grade(valid.label_N.double().numpy(), model.predict(valid))
            worth = (grades.auc or 0.0) - grades.logloss
            epoch = Epoch(len(epochs) + 1, loss, grades, rate, worth > best, time.perf_counter() - started)
            epochs.append(epoch)
            on_epoch(epoch)
            waited += 1
            if epoch.best:
                best, best_weights, waited = worth, _weights(model), 0
            elif waited >= config.patience:
                if drops == config.rate_drops:
                    break
                drops, waited, rate = drops + 1, 0, rate * config.rate_factor
                learning = best_weights
                trainer.restart(best_weights, rate)
            model.load_state_dict(learning)
    model.load_state_dict(best_weights)
    return epochs


class _Trainer:
    """The optimizers of a model, an epoch by them, and the average of the weights that they pass through.

    The exponential moving average (Polyak & Juditsky, 1992, weigh all steps alike) begins short, so that the first
    weights are soon forgotten.
    """

    def __init__(self, model: TabularModel, config: FitConfig) -> None:
        self._model = model
        self._config = config
        linear = model.tier.direct.item_HI
        others = [p for p in model.tier.parameters() if p is not linear]
        self._groups = ((others, config.dense_rate), ([linear], config.linear_rate))
        self._tier = torch.optim.AdamW(
            [{"params": params, "lr": rate} for params, rate in self._groups],
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._rows = RowAdam(model.rows.weight, rate=config.row_rate, l2=config.embedding_l2)
        self._steps = self._joined = 0
        self.average = _weights(model)

    def restart(self, weights: dict[str, Tensor], factor: float) -> None:
        """Go on with the average at these weights, and rates of `factor` of the configuration's."""
        self.average = {name: tensor.clone() for name, tensor in weights.items()}
        for group, (_, rate) in zip(self._tier.param_groups, self._groups, strict=True):
            group["lr"] = rate * factor
        self._rows.rate = self._config.row_rate * factor

    def epoch(self, data: Encoded, shuffle: torch.Generator, on_rows: Callable[[int], None]) -> float:
        """Learn each row once; returns the mean log loss over all."""
        self._model.train()
        total = torch.zeros((), dtype=torch.float64)
        batch = rows_a_step(self._config.batch, len(data))
        for index_n in torch.split(torch.randperm(len(data), generator=shuffle), batch):
            logits_n = self._model(data.rows_NS[index_n].long(), data.dense_NF[index_n])
            total += self._step(logits_n, data.label_N[index_n]) * len(index_n)
            on_rows(len(index_n))
        self._join_average()  # an epoch of a tiny table has no AVERAGED_EVERY steps
        return float(total) / len(data)

    def _step(self, logits_n: Tensor, label_n: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits_n, label_n)
        self._tier.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.tier.parameters(), MAX_GRAD_NORM)
        self._tier.step()
        self._rows.step()
        self._steps += 1
        if self._steps % AVERAGED_EVERY == 0:
            self._join_average()
        return loss.detach()

    def _join_average(self) -> None:
        self._joined += 1
        kept = min(1 - AVERAGED_EVERY / self._config.averaged_steps, self._joined / (9 + self._joined))
        for name, tensor in self._model.state_dict().items():
            self.average[name].lerp_(tensor, 1 - kept)


def _weights(model: TabularModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
