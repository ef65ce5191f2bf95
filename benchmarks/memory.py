"""How many bytes does a served parameter take?

    python -m benchmarks.memory [--rows 1000000] [--widths 16,64]

A ranking process's weights are built with a full table of so many rows, every page of it touched; the growth of this
process's resident memory over the number of parameters (rows · width, and the dense weights). float32 weights alone are
4 bytes; what is above is the map from keys to rows, 41 bytes a row, and what the allocator keeps.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from kernels.linear_compress import bind
from ranker.arrays import U64
from ranker.config import TableConfig
from ranker.inputs.keymap import map_bytes
from ranker.inputs.tables import PlainTables
from ranker.model.tier import count_parameters
from ranker.recipes import three_tiers
from ranker.updates.image import build_tiers


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status: this benchmark needs Linux")


def measure(rows: int, width: int) -> str:
    base = three_tiers()
    tables = tuple(t if t.name != "items" else TableConfig(name="items", rows=rows) for t in base.tables)
    model = replace(base, tables=tables, width=width)
    before = resident_bytes()
    served, tiers = PlainTables(model), build_tiers(model, bind("decomposed"))
    keys: U64 = np.random.default_rng(0).permutation(rows).astype(np.uint64)
    for part in np.array_split(keys, 100):
        served.key_maps["items"].change(part, part.astype(np.int64), np.empty(0, np.uint64))
    served.weights["items"].fill_(1.0)
    grown = resident_bytes() - before
    parameters = sum(w.numel() for w in served.weights.values()) + sum(count_parameters(t) for t in tiers.values())
    assert len(served.key_maps["items"]) == rows
    return (
        f"{rows:>10,} rows of {width:>3}: {parameters:>12,} parameters, {grown / 2**20:>7.0f} MiB resident,"
        f" {grown / parameters:.2f} bytes a parameter (weights 4.00, key map {map_bytes(rows) / parameters:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--widths", default="16,64")
    args = parser.parse_args()
    for width in map(int, args.widths.split(",")):
        print(measure(args.rows, width), flush=True)


if __name__ == "__main__":
    main()
