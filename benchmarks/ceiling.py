"""An upper bound for any engine on this CPU: `python -m benchmarks.ceiling crossvit_18_dagger`.

Times the largest matrix product of the network at 224 and batch 8, in each precision, and says how many images a second
that rate would give if the network were nothing but such products.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.machine import line as machine
from benchmarks.networks import gmacs
from model.crossvit import CrossViT
from model.spec import patch_grids, variant_named

BATCH = 8


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m benchmarks.ceiling VARIANT")
    variant = variant_named(sys.argv[1])
    dim = variant.dims[1]
    rows = BATCH * (1 + patch_grids(224)[1] ** 2)
    with torch.device("meta"):
        image_gmacs = gmacs(CrossViT(variant), 224)
    print(f"{variant.name} at 224: {image_gmacs:.2f} GMAC an image; {machine()}\n")
    print("| precision | GFLOP/s, median | GFLOP/s, best | images/s at best |\n|---|---|---|---|")
    for name, product in products(rows, dim, 3 * dim).items():
        rates = [2e-9 * rows * dim * 3 * dim / seconds for seconds in timings(product)]
        best = max(rates)
        print(f"| {name} | {statistics.median(rates):.0f} | {best:.0f} | {best / 2 / image_gmacs:.1f} |")


def products(rows: int, columns: int, out: int) -> dict[str, Callable[[], object]]:
    """The product (rows, columns) by (columns, out) in each precision: the sums of int8 are int32."""
    x, weight = torch.randn(rows, columns), torch.randn(out, columns)
    x8, weight8 = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in (x.shape, (columns, out)))
    sums = torch.empty(rows, out, dtype=torch.int32)
    return {
        "f32": partial(F.linear, x, weight),
        "bf16": partial(F.linear, x.bfloat16(), weight.bfloat16()),
        # oneDNN's product alone: no runtime's quantising and scaling is in it.
        "int8": partial(torch._int_mm, x8, weight8, out=sums),
    }


def timings(product: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(100):
        started = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - started)
    return seconds[10:]


if __name__ == "__main__":
    main()
