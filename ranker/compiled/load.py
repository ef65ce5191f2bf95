"""A compiled graph at work over live weights."""

# N candidates over all requests.

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ranker.arrays import F32
from ranker.compiled.graph import TierGraph
from ranker.inputs.features import KeyedBatch


class CompiledTier:
    """Runs a file of `build` over a graph's live state: what changes in place is seen by the next call."""

    def __init__(self, graph: TierGraph, path: Path) -> None:
        """Raises ValueError for a file of another graph, RuntimeError for one that cannot be loaded here."""
        self.graph = graph
        self._package = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
        live = {name: tensor.detach() for name, tensor in (*graph.named_parameters(), *graph.named_buffers())}
        wanted = self._package.get_constant_fqns()
        if missing := set(wanted) - set(live):
            raise ValueError(f"{path} was compiled from another graph, which has {sorted(missing)}: build it again")
        self._live = {name: live[name] for name in wanted}  # kept: the package holds addresses alone
        self._package.load_constants(self._live, check_full_update=True, user_managed=True)
        self._run = self._package.loader.boxed_run

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, bool]:
        """What the graph's forward returns; inputs: its own."""
        found, unsure = self._run(list(inputs))
        return found, bool(unsure)

    def predict(self, keyed: KeyedBatch) -> F32 | None:
        """What the graph gives of all requests [2 or 3, N]; None where it does not take one of them, or is not sure."""
        inputs = self.graph.inputs(keyed)
        if inputs is None:
            return None
        found = []
        for given in inputs:
            found_KN, unsure = self(given)
            if unsure:
                return None
            found.append(found_KN.numpy())
        return np.concatenate(found, axis=1)
