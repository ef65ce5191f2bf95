"""The learner's whole state as named tensors, to be stored and taken up again bit for bit."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ranker.grades import BaseRate
from ranker.inputs.copies import Copies
from ranker.learning.learner import Learner

_ADAM = ("step", "exp_avg", "exp_avg_sq")


def training_state(learner: Learner) -> dict[str, Tensor]:
    """Copies: float32 weights, optimizer state, key maps with their ages, changes not yet published, counters.

    Not the frozen copy. Rows without a key are left out.
    """
    return copied_state(learner, Copies())()


def copied_state(learner: Learner, copies: Copies) -> Callable[[], dict[str, Tensor]]:
    """training_state of this moment, sorted when it is called: by another thread, if need be.

    Holds until the next copy into the same `copies`.
    """
    state = {f"dense/{name}": t.clone() for name, t in learner.dense.items()}
    for name, parameter in learner.parameters.items():
        for part in _ADAM:
            if parameter in learner.adam.state:  # a tier that has not learned yet has none
                state[f"adam/{name}/{part}"] = learner.adam.state[parameter][part].clone()
    rates = [(rate.count, rate.positives) for rate in _rates(learner)]
    state["rates"] = torch.tensor(rates, dtype=torch.float64)
    state["step"] = torch.tensor(learner.step)
    if learner.counter is not None:
        state |= {f"counter/{name}": torch.from_numpy(array) for name, array in learner.counter.state().items()}
    if learner.began_ms is not None:
        state["began_ms"] = torch.tensor(learner.began_ms)
    tables = {
        table: (
            learner.admissions[table].copied(copies, f"learner/{table}"),
            learner.pending.state(table),
            copies.tensor(f"learner/{table}/weights", weights),
            copies.tensor(f"learner/{table}/sums", learner.adagrad_sums[table]),
            _tail(learner, table),
        )
        for table, weights in learner.tables.weights.items()
    }
    catalogue = learner.tables.catalogue
    entry_RS = copies.array("learner/catalogue", catalogue.entry_RS)

    def finished() -> dict[str, Tensor]:
        out = dict(state)
        for table, (admission, pending, weights, sums, tail) in tables.items():
            arrays = admission() | pending
            out |= {f"table/{table}/{name}": torch.from_numpy(array) for name, array in arrays.items()}
            rows = torch.cat([torch.from_numpy(arrays["rows"]), tail])
            out[f"table/{table}/values"], out[f"table/{table}/sums"] = weights[rows], sums[rows]
            if table == catalogue.table and catalogue.slots:
                out[f"table/{table}/catalogue"] = torch.from_numpy(entry_RS[arrays["rows"]])
        return out

    return finished


@torch.no_grad()
def restore(learner: Learner, state: dict[str, Tensor]) -> None:
    """Inverse of training_state, into a learner of the same configuration.

    Raises KeyError or ValueError or RuntimeError if the state is of another configuration; the learner is then to be
    thrown away.
    """
    for name, tensor in learner.dense.items():
        tensor.copy_(state[f"dense/{name}"])
    learner.adam.state.clear()
    for name, parameter in learner.parameters.items():
        if f"adam/{name}/step" in state:
            learner.adam.state[parameter] = {part: state[f"adam/{name}/{part}"].clone() for part in _ADAM}
    for table, weights in learner.tables.weights.items():
        prefix = f"table/{table}/"
        arrays = {name.removeprefix(prefix): t.numpy() for name, t in state.items() if name.startswith(prefix)}
        learner.admissions[table].restore(arrays)
        learner.pending.restore(table, arrays)
        rows = torch.cat([torch.from_numpy(arrays["rows"]), _tail(learner, table)])
        weights.zero_()  # rows in use now may not have been then
        learner.adagrad_sums[table].zero_()
        weights[rows] = state[f"{prefix}values"]
        learner.adagrad_sums[table][rows] = state[f"{prefix}sums"]
        catalogue = learner.tables.catalogue
        if table == catalogue.table and catalogue.slots:
            catalogue.entry_RS[:] = 0
            catalogue.entry_RS[arrays["rows"]] = arrays["catalogue"]
    if learner.counter is not None:
        counting = {
            name.removeprefix("counter/"): t.numpy() for name, t in state.items() if name.startswith("counter/")
        }
        learner.counter.restore(counting)
    for rate, sums in zip(_rates(learner), state["rates"].tolist(), strict=True):
        rate.count, rate.positives = sums
    learner.step = int(state["step"])
    learner.began_ms = int(state["began_ms"]) if "began_ms" in state else None


def _rates(learner: Learner) -> tuple[BaseRate, ...]:
    return learner.click_rate, learner.conversion_rate, learner.recent_clicks, learner.late_clicks


def _tail(learner: Learner, table: str) -> Tensor:
    return torch.from_numpy(np.arange(learner.tables.key_maps[table].num_rows, len(learner.tables.weights[table])))
