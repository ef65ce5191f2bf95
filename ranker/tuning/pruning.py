"""Pruning a tier: hidden units that contribute least are removed, as long as what the tier predicts is as good.

A unit's contribution is measured on labelled traffic, as the product of two parts:

- what the loss would change by, were it gone: the mean over rows of (Σ activation · gradient)², the sum over a row's
  positions (Molchanov et al., 2019, "Importance Estimation for Neural Network Pruning", with a gate a unit);
- the share of its activation that the other units cannot explain linearly, 1 / (G_jj · (G⁻¹)_jj) with G the second
  moments of the activations. What they can explain, they take over: their outgoing weights are corrected by least
  squares (Hassibi & Stork, 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon", a layer's
  output in the place of the loss).

So a unit that is dead, and all but one of units that say the same, go without a trace. Units go in the order of
contribution over operations; after each round the loss is measured again, on other traffic.
"""

# n rows (requests or candidates), N candidates, H hidden units, K of them kept, O outputs.

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.linear_compress import Compress
from ranker.config import ModelConfig, Pruned, TierConfig
from ranker.model.heads import CONVERSION, Heads
from ranker.model.mlp import Mlp
from ranker.model.prune import hidden_units, keep
from ranker.model.tier import Tier
from ranker.tuning.cost import linear_operations, made_up_batch
from ranker.tuning.held_out import Change, HeldOut, compare, label_losses
from ranker.tuning.pruning_options import PruningOptions

_DAMPING = 1e-6
"""Added to G's diagonal, as a share of its mean: what the sample is too small to tell apart is not explained."""


@dataclass(frozen=True, slots=True)
class Round:
    operations: float
    """Share of the linear operations that is left."""
    change: Change
    """Change of the loss, since before pruning."""
    taken: bool
    """False: it lost too much, and was taken back."""


@dataclass(frozen=True, slots=True)
class Pruning:
    tier: Tier
    """The pruned tier, with its new shapes."""
    units: dict[str, Tensor]
    """Units that stay, by path of a module that lost any: int64 [K], ascending; of the heads [2, K]."""
    operations: float
    """Share of the linear operations that is left."""
    change: Change
    entropy: float
    """Normalized, before pruning."""
    rounds: list[Round] = field(default_factory=list)


def prune(
    config: ModelConfig,
    tier: Tier,
    measured_on: HeldOut,
    held_out: HeldOut,
    options: PruningOptions,
    *,
    on_round: Callable[[Round], None] = lambda done: None,
) -> Pruning:
    """Prune a copy of the tier; the tier itself is left as it is.

    measured_on gives contributions, held_out decides, by the loss it shows and not by how sure that is; their labels
    should be of different responses. on_round hears of each round when it has been judged.
    """
    work = copy.deepcopy(tier).eval().requires_grad_(True)
    batch = made_up_batch(config, work, held_out.tables, options.candidates)
    operations = linear_operations(work, batch, held_out.tables)
    total, costs = sum(operations.values()), _unit_costs(work, operations)
    units = {path: _all_units(module) for path, module in _prunable(work)}
    before = held_out.losses(work)
    left, change, step, rounds = 1.0, Change(0.0, 0.0), options.step, list[Round]()
    while left > 1 - options.target:
        banks = _measure(work, costs, measured_on)
        removed = _choose(banks, min(step, left - (1 - options.target)) * total)
        if not removed:
            break
        tried = copy.deepcopy(work)
        for path, bank in banks.items():
            bank.write(tried.get_submodule(path))
        share = sum(linear_operations(tried, batch, held_out.tables).values()) / total
        now = compare(before, held_out.losses(tried))
        taken = now.loss <= options.max_loss
        rounds.append(Round(share, now, taken))
        on_round(rounds[-1])
        if taken:
            work, left, change = tried, share, now
            units = {path: units[path].gather(-1, bank.kept()) for path, bank in banks.items()}
        elif removed == 1 or step / 2 < options.smallest_step:
            break
        else:
            step /= 2
    shapes = {path: u for path, u in units.items() if u.shape[-1] < hidden_units(tier.get_submodule(path))}
    work.config = pruned_config(tier.config, shapes)
    return Pruning(work, shapes, left, change, held_out.normalized_entropy(before), rounds)


def pruned_config(config: TierConfig, units: dict[str, Tensor]) -> TierConfig:
    """The tier's configuration with the shapes of what stays."""
    sizes = {p.mlp: p.hidden for p in config.pruned} | {path: kept.shape[-1] for path, kept in units.items()}
    return replace(config, pruned=tuple(Pruned(mlp=path, hidden=hidden) for path, hidden in sorted(sizes.items())))


def pruned_model(config: ModelConfig, tier: TierConfig) -> ModelConfig:
    """The configuration with this tier in the place of the one of its name."""
    return replace(config, tiers=tuple(tier if t.name == tier.name else t for t in config.tiers))


def pruned_state(
    state: dict[str, Tensor], config: ModelConfig, pruning: Pruning, compress: Compress
) -> dict[str, Tensor]:
    """A learner's state (see learning.state) after its tier was pruned: what stays keeps its optimizer state."""
    name = pruning.tier.config.name
    out = state | {f"dense/{name}/{key}": tensor.clone() for key, tensor in pruning.tier.state_dict().items()}
    for part in ("exp_avg", "exp_avg_sq"):
        # A moment has the shape of its parameter, so it is cut as the parameter is.
        moments = Tier(config, config.tier(name), compress=compress)
        known = [n for n, _ in moments.named_parameters() if f"adam/{name}/{n}/{part}" in state]
        with torch.no_grad():
            for n in known:
                moments.get_parameter(n).copy_(state[f"adam/{name}/{n}/{part}"])
        for path, units in pruning.units.items():
            keep(moments.get_submodule(path), units)
        out |= {f"adam/{name}/{n}/{part}": moments.get_parameter(n).detach() for n in known}
    return out


class _Bank:
    """The units of one Mlp, or of each of the heads, while some are being removed."""

    def __init__(self, gates_JH: Tensor, moments_JHH: Tensor, cost: float) -> None:
        """J banks that lose units together: 1 of an Mlp, 2 of the heads. cost: operations of a unit of each."""
        J, H = gates_JH.shape
        diagonal_JH = moments_JHH.diagonal(dim1=1, dim2=2)
        damping_J1 = (_DAMPING * diagonal_JH.mean(1, keepdim=True)).clamp(min=1e-30)
        self._moments_JH = diagonal_JH + damping_J1
        self._inverse_JHH = torch.linalg.inv(moments_JHH + torch.diag_embed(damping_J1.expand(J, H)))
        self._gates_JH = gates_JH
        self._alive_JH = torch.ones(J, H, dtype=torch.bool)
        # What the outgoing weights [O, H] are multiplied by, from the right: the corrections of all removals.
        self._correction_JHH = torch.eye(H, dtype=torch.float64).repeat(J, 1, 1)
        self.cost = cost

    @property
    def left(self) -> int:
        return int(self._alive_JH[0].sum())

    def least(self) -> tuple[float, Tensor]:
        """The least contribution, of all banks together, and the unit [J] of each that has it."""
        unexplained_JH = 1 / (self._moments_JH * self._inverse_JHH.diagonal(dim1=1, dim2=2).clamp(min=1e-300))
        value_JH = (self._gates_JH * unexplained_JH).masked_fill(~self._alive_JH, torch.inf)
        least_J, unit_J = value_JH.min(1)
        return float(least_J.sum()), unit_J

    def remove(self, unit_J: Tensor) -> None:
        for j, unit in enumerate(unit_J.tolist()):
            inverse_HH = self._inverse_JHH[j]
            row_H = inverse_HH[unit] / inverse_HH[unit, unit]
            self._correction_JHH[j] -= self._correction_JHH[j][:, unit : unit + 1] * row_H
            inverse_HH -= torch.outer(inverse_HH[:, unit], row_H)
            inverse_HH[unit, :], inverse_HH[:, unit] = 0.0, 0.0
            self._alive_JH[j, unit] = False

    def kept(self) -> Tensor:
        """int64 [K] of an Mlp, [2, K] of the heads."""
        kept_JK = torch.stack([alive_H.nonzero().squeeze(1) for alive_H in self._alive_JH])
        return kept_JK[0] if len(kept_JK) == 1 else kept_JK

    @torch.no_grad()
    def write(self, module: nn.Module) -> None:
        """Correct the outgoing weights, then cut."""
        if self._alive_JH.all():
            return
        if isinstance(module, Mlp):
            module.down.weight.copy_(module.down.weight.double() @ self._correction_JHH[0])
        elif isinstance(module, Heads):
            for out_Hh in (module.out_Hh, module.distilled_Hh):
                if out_Hh is not None:
                    out_Hh.copy_(torch.einsum("jh,jhk->jk", out_Hh.double(), self._correction_JHH))
            if module.late_1h is not None:
                module.late_1h.copy_(module.late_1h.double() @ self._correction_JHH[CONVERSION])
        keep(module, self.kept())


def _choose(banks: dict[str, _Bank], operations: float) -> int:
    """Remove units until so many operations are gone, at least one; returns how many went. One a module stays."""
    removed, gone = 0, 0.0
    while gone < operations or not removed:
        open_to = [bank for bank in banks.values() if bank.left > 1]
        if not open_to:
            break
        bank = min(open_to, key=lambda bank: bank.least()[0] / bank.cost)
        bank.remove(bank.least()[1])
        gone += bank.cost
        removed += 1
    return removed


def _prunable(tier: Tier) -> Iterator[tuple[str, Mlp | Heads]]:
    for path, module in tier.named_modules():
        if isinstance(module, Mlp | Heads):
            yield path, module


def _all_units(module: Mlp | Heads) -> Tensor:
    units_H = torch.arange(hidden_units(module))
    return units_H if isinstance(module, Mlp) else units_H.repeat(2, 1)


def _unit_costs(tier: Tier, operations: dict[str, int]) -> dict[str, float]:
    """Operations of one hidden unit of each module; of the heads, of one of each."""
    costs = {}
    for path, module in _prunable(tier):
        weights = ("up", "down") if isinstance(module, Mlp) else ("user", "item")
        costs[path] = sum(operations[f"{path}.{w}.weight"] for w in weights) / hidden_units(module)
    return costs


class _Watch:
    """What each module's hidden units had before their ReLU, in the last forward of a tier."""

    def __init__(self, tier: Tier) -> None:
        self.hidden: dict[str, Tensor] = {}
        """[n, ..., H]; gradients flow through it."""
        self.shift: dict[str, Tensor] = {}
        """What the request adds to `hidden`; for the heads alone."""
        self._handles = []
        for path, module in _prunable(tier):
            watched = module.up if isinstance(module, Mlp) else module.item
            self._handles.append(watched.register_forward_hook(partial(self._keep, path)))
            if isinstance(module, Heads):
                self._handles.append(module.register_forward_pre_hook(partial(self._keep_shift, path)))

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, path: str, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        self.hidden[path] = out

    def _keep_shift(self, path: str, heads: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(heads, Heads)
        user_BUD, request_of_N = args[0], args[3]
        self.shift[path] = (heads.user(user_BUD.flatten(1)) + heads.hidden_bias).index_select(0, request_of_N).detach()


def _measure(tier: Tier, costs: dict[str, float], measured_on: HeldOut) -> dict[str, _Bank]:
    """Contributions and second moments of every unit, over the traffic."""
    modules = dict(_prunable(tier))
    gates_JH = {
        path: torch.zeros(_all_units(m).view(-1, hidden_units(m)).shape).double() for path, m in modules.items()
    }
    moments_JHH = {path: gates.new_zeros(*gates.shape, gates.shape[1]) for path, gates in gates_JH.items()}
    watch = _Watch(tier)
    for batch, labels_NH in measured_on:
        loss = label_losses(tier(batch, measured_on.tables, None), labels_NH).sum()
        gradients = torch.autograd.grad(loss, list(watch.hidden.values()))
        for (path, hidden), gradient in zip(watch.hidden.items(), gradients, strict=True):
            J, H = gates_JH[path].shape
            # activation · its gradient is, behind a ReLU, input · the input's gradient
            active = F.relu(hidden.detach() + watch.shift.get(path, 0.0)).double()
            effect_nJH = (active * gradient).reshape(len(active), -1, J, H).sum(1)
            gates_JH[path] += effect_nJH.square().sum(0)
            used = gradient.flatten(0, -2).any(1)  # what nothing depends on, as padding, says nothing
            active_JnH = active.flatten(0, -2)[used].view(-1, J, H).transpose(0, 1)
            moments_JHH[path] += active_JnH.transpose(1, 2) @ active_JnH
    watch.close()
    return {path: _Bank(gates_JH[path], moments_JHH[path], costs[path]) for path in modules}
