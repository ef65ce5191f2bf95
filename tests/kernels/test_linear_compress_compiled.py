"""The Triton kernels compiled for sm_90, without a GPU: they keep in registers, and bfloat16 runs on tensor cores."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from kernels import linear_compress_triton as kernels  # noqa: E402

# Tokens in, tokens out and token width: of our light tier, of a wide one, and of the published layer.
SHAPES = pytest.mark.parametrize(("M", "T", "D"), [(12, 8, 16), (64, 48, 32), (433, 866, 256)])
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
POINTER = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}


def compile_for_hopper(
    kernel: Any, signature: dict[str, str], constants: dict[str, Any], how: dict[str, Any], divisible: set[str]
) -> bytes:
    """The cubin of a kernel whose pointers, as torch's allocations are, and `divisible` are multiples of 16."""
    options = {name: how[name] for name in ("num_warps", "num_stages")}
    constants |= {name: value for name, value in how.items() if name not in options}
    names = kernel.arg_names
    aligned = [name for name, kind in signature.items() if kind.startswith("*") or name in divisible]
    attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    signature = {name: signature.get(name, "constexpr") for name in names}
    source = ASTSource(kernel, signature, {(names.index(n),): v for n, v in constants.items()}, attrs)
    cubin: bytes = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]
    return cubin


def inspect(cubin: bytes, folder: Path) -> tuple[str, str]:
    """Machine code, and the resources that it uses."""
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

    def dump(option: str) -> str:
        return subprocess.run([tool, option, path], capture_output=True, text=True, check=True).stdout

    return dump("--dump-sass"), dump("--dump-resource-usage")


def assert_in_registers(resources: str) -> None:
    assert "STACK:0" in resources, resources
    assert "LOCAL:0" in resources, resources


def assert_runs_as_meant(sass: str, dtype: torch.dtype) -> None:
    """bfloat16: tensor cores, fed by asynchronous copies of 16 bytes. float32: none, they would round to TF32."""
    assert ("GMMA" in sass or "HMMA" in sass) == (dtype == torch.bfloat16)
    if dtype == torch.bfloat16:
        assert "LDGSTS.E.BYPASS.128" in sass


@DTYPES
@SHAPES
def test_weigh_tokens(M: int, T: int, D: int, dtype: torch.dtype, tmp_path: Path) -> None:
    pointer = POINTER[dtype]
    signature = {"weights": pointer, "tokens": pointer, "base": "*fp32", "owner_of": "*i64", "out": pointer}
    numbers = ("M", "T", "C", "weights_m", "weights_t", "weights_stride_m")
    how = kernels.tiles(M, T, dtype)
    constants = {"weights_stride_t": 1, "D": D, "ALIGN": 16, "HAS_BASE": True}
    divisible = {"C"} | ({"weights_m", "weights_t", "weights_stride_m"} if M >= 64 else set())
    signature |= dict.fromkeys(numbers, "i32")
    sass, resources = inspect(
        compile_for_hopper(kernels.weigh_tokens_kernel, signature, constants, how, divisible), tmp_path
    )
    assert_in_registers(resources)
    assert_runs_as_meant(sass, dtype)


@DTYPES
@SHAPES
def test_sum_products(M: int, T: int, D: int, dtype: torch.dtype, tmp_path: Path) -> None:
    signature = {"left": POINTER[dtype], "right": POINTER[dtype], "parts": "*fp32"}
    signature |= dict.fromkeys(("M", "T", "C", "columns_a_part"), "i32")
    how = kernels.product_tiles(M, T, dtype)
    divisible = {"C", "columns_a_part"}
    sass, resources = inspect(
        compile_for_hopper(kernels.sum_products_kernel, signature, {"D": D, "ALIGN": 16}, how, divisible), tmp_path
    )
    assert_in_registers(resources)
    assert_runs_as_meant(sass, dtype)


@DTYPES
def test_sum_segments(dtype: torch.dtype, tmp_path: Path) -> None:
    signature = {"rows": POINTER[dtype], "first_of": "*i64", "out": "*fp32", "R": "i32"}
    how = {"BLOCK_R": 1024, "num_warps": 4, "num_stages": 3}
    _, resources = inspect(compile_for_hopper(kernels.sum_segments_kernel, signature, {}, how, set()), tmp_path)
    assert_in_registers(resources)
