"""What a log says of each candidate as operators of a graph: ranker/inputs/evidence.py, of one request."""

# N candidates, E log events, S slots, A = S · N values of candidates, G groups of equal ones.

import math

import torch
from torch import Tensor, nn

from ranker.compiled.keys import shifted
from ranker.inputs.evidence import ACTED, CLICKED, DECAYS_S, KIND_OF_ACTION, NEVER, SHOWN

_BITS = (16, 14, 14)
"""Sizes of the tables by which equal values are found. A value that shares its place in one is looked up in the next:
of requests with 1,000 candidates and seven values each, one in 2,000 has a value that finds no place of its own."""
_NEVER = float(NEVER)
_UNCOUNTED = 3
"""Kind of an event that does not count."""


class LogCounts(nn.Module):
    """Counts of the events whose items have a candidate's values; see count_evidence."""

    kind_of_action: Tensor

    def __init__(self) -> None:
        super().__init__()
        kinds = torch.from_numpy(KIND_OF_ACTION).clone()
        kinds[kinds < 0] = _UNCOUNTED
        self.register_buffer("kind_of_action", kinds, persistent=False)

    def forward(
        self, candidate_SN: Tensor, event_SE: Tensor, known_SE: Tensor, action_E: Tensor, age_E: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[N, S, COLUMNS], and whether they may be wrong, as two values may have shared their places in all tables.

        Args:
            candidate_SN: keys of the candidates' values of each slot.
            event_SE, known_SE: those of the events' items, and which are known.
        """
        S, N = candidate_SN.shape
        A = S * N
        group_A, group_SE, unsure = _groups(candidate_SN.flatten(), event_SE, known_SE)
        cell_SE = group_SE * (_UNCOUNTED + 1) + self.kind_of_action[action_E]
        cells = (A + 1) * (_UNCOUNTED + 1)
        age_s_E = torch.expm1(age_E)
        fades = [torch.ones_like(age_E) if math.isinf(tau_s) else torch.exp(-age_s_E / tau_s) for tau_s in DECAYS_S]
        sums = [age_E.new_zeros(cells).index_put((cell_SE,), fade_E.expand(S, -1), accumulate=True) for fade_E in fades]
        ages = age_E.new_full((cells,), _NEVER)
        for cell_E in cell_SE:
            ages = ages.scatter_reduce(0, cell_E, age_E, "amin")
        counts_GC = torch.stack(sums, dim=1).view(A + 1, -1)[:, : (ACTED + 1) * len(DECAYS_S)]
        table_GC = torch.cat([counts_GC, ages.view(A + 1, -1)[:, SHOWN : CLICKED + 1]], dim=1)
        return table_GC[group_A.view(S, N).t()], unsure


def _groups(value_A: Tensor, value_SE: Tensor, known_SE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers the candidates' values, equal ones alike: of each candidate's value and of each event's, A where no
    candidate has it; and whether there is a value that the tables had no place for."""
    A = value_A.shape[0]
    number_A = torch.arange(A, dtype=torch.int32)
    group_A, group_SE = torch.full_like(number_A, -1), torch.full_like(value_SE, -1, dtype=torch.int32)
    for turn, bits in enumerate(_BITS):
        low = 64 - bits - 16 * turn
        place_A, place_SE = (shifted(value, low) & ((1 << bits) - 1) for value in (value_A, value_SE))
        # What has a number already goes to a place behind all others.
        at_A = torch.where(group_A < 0, place_A, 1 << bits)
        table = torch.full(((1 << bits) + 1,), -1, dtype=torch.int32).index_put((at_A,), number_A)
        group_A = torch.where(group_A < 0, _same(table[place_A], value_A, value_A), group_A)
        group_SE = torch.where(group_SE < 0, _same(table[place_SE], value_A, value_SE), group_SE)
    return group_A.long(), torch.where(known_SE & (group_SE >= 0), group_SE, A).long(), (group_A < 0).any()


def _same(number: Tensor, value_A: Tensor, value: Tensor) -> Tensor:
    """Those numbers whose value is this one; else -1."""
    return torch.where((number >= 0) & (value_A[number.clamp(min=0).long()] == value), number, -1)
