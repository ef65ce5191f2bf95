"""How fast is linear compression, against its plain form and cuBLAS?

    python -m benchmarks.linear_compression [--json]

Each row passed a gate first: output and all gradients match the reference. The baseline is what one writes without
decomposing: the user's tokens repeated for each candidate, concatenated, and one batched matrix product. On a machine
without a GPU the decomposed form runs on the CPU, at the small shapes.
"""

# B requests, N candidates, U, V, K tokens of user, candidate and output, D token width.

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version

import torch
from torch import Tensor

from kernels.linear_compress import Compress, available_impls, bind, linear_compress_reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    name: str
    requests: int
    candidates: int
    """Candidates of each request."""
    U: int
    V: int
    K: int
    D: int
    dtype: torch.dtype
    gpu_only: bool = False


CASES = (
    # Of Meta's engineering blog on its Adaptive Ranking Model: M = K = 433, N/D = 256, about 70 candidates a user.
    *(
        Case(name="published", requests=15, candidates=70, U=1178, V=866, K=433, D=256, dtype=dtype, gpu_only=True)
        for dtype in (torch.bfloat16, torch.float32)
    ),
    *(
        Case(name=name, requests=requests, candidates=candidates, U=8, V=7, K=12, D=16, dtype=torch.float32)
        for name, requests, candidates in [("light, serving", 1, 100), ("light, training", 16, 3)]
    ),
    Case(name="heavy, serving", requests=1, candidates=500, U=25, V=9, K=16, D=32, dtype=torch.float32),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    case: str
    shape: str
    dtype: str
    impl: str
    direction: str
    p20_ms: float
    p50_ms: float
    p80_ms: float


def repeated(user_BUD: Tensor, item_NVD: Tensor, request_of_N: Tensor, w_user_KU: Tensor, w_item_KV: Tensor) -> Tensor:
    """The baseline: repeat, concatenate, one batched product (cuBLAS on a GPU)."""
    tokens_NTD = torch.cat([user_BUD.index_select(0, request_of_N), item_NVD], dim=1)
    return torch.matmul(torch.cat([w_user_KU, w_item_KV], dim=1), tokens_NTD)


def make_inputs(case: Case, device: torch.device) -> list[Tensor]:
    """user, item, request_of, w_user, w_item; the floats with gradients."""
    generator = torch.Generator().manual_seed(0)
    N = case.requests * case.candidates
    shapes = [(case.requests, case.U, case.D), (N, case.V, case.D), (case.K, case.U), (case.K, case.V)]
    scales = [1.0, 1.0, *[(case.U + case.V) ** -0.5] * 2]
    user, item, w_user, w_item = (
        (torch.randn(shape, generator=generator) * scale).to(device, case.dtype).requires_grad_()
        for shape, scale in zip(shapes, scales, strict=True)
    )
    request_of_N = torch.arange(case.requests, device=device).repeat_interleave(case.candidates)
    return [user, item, request_of_N, w_user, w_item]


@torch.inference_mode()
def forward(impl: Compress, inputs: list[Tensor]) -> Tensor:
    return impl(*inputs)


def forward_backward(impl: Compress, inputs: list[Tensor], gradient: Tensor) -> list[Tensor]:
    out = impl(*inputs)
    return [out, *torch.autograd.grad(out, [t for t in inputs if t.is_floating_point()], gradient)]


def check_against_reference(case: Case, impl: Compress, inputs: list[Tensor], gradient: Tensor) -> None:
    """A fast wrong form gets no row: raises AssertionError unless output and gradients match."""
    expected = forward_backward(linear_compress_reference, inputs, gradient)
    for actual, wanted in zip(forward_backward(impl, inputs, gradient), expected, strict=True):
        atol = TOLERANCE[case.dtype] * max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(actual, wanted, rtol=0, atol=atol)


def quantiles_ms(run: Callable[[], object], device: torch.device) -> tuple[float, float, float]:
    """p20, p50 and p80 of one call."""
    if device.type == "cuda":
        from triton.testing import do_bench

        p20, p50, p80 = do_bench(run, quantiles=(0.2, 0.5, 0.8))
        return p20, p50, p80
    times = []
    for _ in range(120):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    times = sorted(times[20:])  # the first ones warm up
    return times[20], times[50], times[80]


def bench(case: Case, device: torch.device) -> list[Row]:
    forms: dict[str, Compress] = {name: bind(name) for name in available_impls() if name != "reference"}
    forms["repeat, concatenate, matmul"] = repeated
    if device.type == "cpu":
        forms["reference"] = linear_compress_reference
    inputs = make_inputs(case, device)
    N = case.requests * case.candidates
    gradient = torch.randn(N, case.K, case.D, generator=torch.Generator().manual_seed(1)).to(device, case.dtype)
    shape = f"{case.requests}x{case.candidates} U={case.U} V={case.V} K={case.K} D={case.D}"
    rows = []
    for name, impl in forms.items():
        check_against_reference(case, impl, inputs, gradient)
        runs: dict[str, Callable[[], object]] = {
            "forward": partial(forward, impl, inputs),
            "forward+backward": partial(forward_backward, impl, inputs, gradient),
        }
        for direction, run in runs.items():
            p20, p50, p80 = quantiles_ms(run, device)
            of_case = {"case": case.name, "shape": shape, "dtype": str(case.dtype).removeprefix("torch.")}
            rows.append(Row(**of_case, impl=name, direction=direction, p20_ms=p20, p50_ms=p50, p80_ms=p80))
    return rows


def where(device: torch.device) -> dict[str, str]:
    """What the figures hold for."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    triton_version = version("triton") if "triton" in available_impls() else "not used"
    return {
        "device": name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton_version,
        "commit": head.stdout.strip() or "unknown",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    as_json: bool = parser.parse_args().json
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    rows = [row for case in CASES if device.type == "cuda" or not case.gpu_only for row in bench(case, device)]
    if as_json:
        print(json.dumps({"where": where(device), "rows": [asdict(row) for row in rows]}))
        return
    if device.type == "cpu":
        print("No GPU was found: the Triton kernel is not timed, nor are the published shapes.")
    print(*(f"{key} {value}" for key, value in where(device).items()), sep=", ")
    columns = ("case", "shape", "dtype", "implementation", "direction", "p20 ms", "p50 ms", "p80 ms")
    print("{:16} {:32} {:9} {:28} {:17} {:>8} {:>8} {:>8}".format(*columns))
    for r in rows:
        times = " ".join(f"{ms:8.3f}" for ms in (r.p20_ms, r.p50_ms, r.p80_ms))
        print(f"{r.case:16} {r.shape:32} {r.dtype:9} {r.impl:28} {r.direction:17} {times}")


if __name__ == "__main__":
    main()
