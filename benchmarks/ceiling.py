"""How fast this CPU can be at all: `python -m benchmarks.ceiling crossvit_18_dagger`.

Times the largest matrix product of the network at 224 and batch 8, in each precision, and says how many images a second
that rate would give if the network were nothing but such products. An upper bound for any engine.
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F

from benchmarks.networks import gmacs
from benchmarks.service import machine
from model.crossvit import CrossViT
from model.spec import patch_grids, variant_named

BATCH = 8


def main() -> None:
    variant = variant_named(sys.argv[1])
    dim = variant.dims[1]
    rows = BATCH * (1 + patch_grids(224)[1] ** 2)
    with torch.device("meta"):
        image_gmacs = gmacs(CrossViT(variant), 224)
    print(f"{variant.name} at 224: {image_gmacs:.2f} GMAC an image; {machine()}\n")
    print("| precision | GFLOP/s, median | GFLOP/s, best | images/s at best |\n|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        rates = [2e-9 * rows * dim * 3 * dim / seconds for seconds in timings(rows, dim, 3 * dim, dtype)]
        best = max(rates)
        print(f"| {dtype} | {statistics.median(rates):.0f} | {best:.0f} | {best / 2 / image_gmacs:.1f} |")


def timings(rows: int, columns: int, out: int, dtype: torch.dtype) -> list[float]:
    x, weight = torch.randn(rows, columns).to(dtype), torch.randn(out, columns).to(dtype)
    seconds = []
    for _ in range(100):
        started = time.perf_counter()
        F.linear(x, weight)
        seconds.append(time.perf_counter() - started)
    return seconds[10:]


if __name__ == "__main__":
    main()
