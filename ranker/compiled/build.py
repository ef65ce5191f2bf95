"""Compiling a tier's graph into a file that can be loaded without a compiler, on processors of the same kind."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ranker.compiled.graph import SMALLEST, TierGraph

SETTINGS = {
    # The weights are the process's own, which change in place: none may be copied into the file, however small.
    "aot_inductor.package_constants_in_so": False,
    "always_keep_tensor_constants": True,
    "cpp.threads": 1,
}


def compiler() -> str | None:
    """Path of the C++ compiler that a build calls; None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def build(graph: TierGraph, example: Sequence[Tensor], path: Path) -> None:
    """Compiles to `path`, which is there whole or not at all. Takes about half a minute of a core.

    example: inputs of a request with more than SMALLEST candidates and events; the graph takes any number of them.
    """
    most = {"candidates": None, "events": None, "read": max(graph.read_length, SMALLEST + 1)}  # a Dim wants room
    sizes = {name: torch.export.Dim(name, min=SMALLEST, max=bound) for name, bound in most.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder,
        torch.no_grad(),
        warnings.catch_warnings(category=FutureWarning, action="ignore"),  # torch's, of what torch itself calls
    ):
        # Tensors of their own: of views into one, the tracer would conclude that sizes depend on each other.
        exported = torch.export.export(
            graph,
            tuple(tensor.clone() for tensor in example),
            dynamic_shapes=(tuple({place: sizes[of] for place, of in any_.items()} for any_ in graph.sizes),),
        )
        made = torch._inductor.aoti_compile_and_package(
            exported,
            package_path=str(Path(folder) / path.name),
            inductor_configs=dict(SETTINGS),  # it adds to them
        )
        if frozen := weights_read(exported) - set(torch._inductor.aoti_load_package(made).get_constant_fqns()):
            raise RuntimeError(f"torch {torch.__version__} froze weights into the graph: {sorted(frozen)}")
        os.replace(made, path)


def weights_read(exported: torch.export.ExportedProgram) -> set[str]:
    """Returns the names of the parameters and buffers that the graph reads."""
    inputs = exported.graph.find_nodes(op="placeholder")
    specs = exported.graph_signature.input_specs
    return {str(s.target) for s, node in zip(specs, inputs, strict=True) if s.target is not None and node.users}
