"""A compiled graph at work over live weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ranker.compiled.graph import TierGraph


class CompiledTier:
    """Runs a file of `build` over the weights of a graph. What changes in them in place is seen by the next call."""

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

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Probabilities [2, N] of a request's candidates; inputs: those of the graph."""
        p_2N: Tensor = self._run(list(inputs))[0]
        return p_2N
