"""What the machine could reach at most: `python -m benchmarks.roofline crossvit_18_dagger`.

Prints Markdown, and reports only. OpenVINO's own `benchmark_app -pcsort sort` shows a graph's layers by their time.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command_line import run
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table
from model.crossvit import CrossViT
from model.spec import Variant, patch_grids, variant_named

SIDE, BATCH = 224, 8
PRODUCT_SECONDS = 3


def roofline(variant: str) -> None:
    """Time the network's largest matrix product at 224 and batch 8 alone, in each precision.

    It also prints the images per second that this rate would give if the network were nothing else.
    """
    network = variant_named(variant)
    dim = network.dims[1]
    rows = BATCH * (1 + patch_grids(SIDE)[1] ** 2)
    image_gmacs = gmacs(network)
    print(f"{variant} at {SIDE}: {image_gmacs:.2f} GMAC an image; {machine()}\n")
    found = []
    for name, product in matrix_products(rows, dim, 3 * dim).items():
        timer = Timer("product()", globals={"product": product}, num_threads=torch.get_num_threads())
        seconds = np.array(timer.blocked_autorange(min_run_time=PRODUCT_SECONDS).times)
        rates = 2e-9 * rows * dim * 3 * dim / seconds
        best = rates.max()
        found.append([name, f"{np.median(rates):.0f}", f"{best:.0f}", f"{best / 2 / image_gmacs:.1f}"])
    print_table(pd.DataFrame(found, columns=["precision", "GFLOP/s, median", "GFLOP/s, best", "images/s at best"]))


def matrix_products(rows: int, columns: int, out: int) -> dict[str, Callable[[], object]]:
    """The product (rows, columns) by (columns, out) in each precision.

    In int8 there are two, since which is faster depends on the CPU: oneDNN's with uint8 in and out, as engines use it,
    and the one that gives sums in int32.
    """
    x, weight = torch.randn(rows, columns), torch.randn(out, columns)
    x8, weight8 = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in (x.shape, weight.shape))
    sums = torch.empty(rows, out, dtype=torch.int32)
    packed = torch.ops.onednn.qlinear_prepack(weight8, [rows, columns])
    scales, zeros = torch.full((out,), 0.01), torch.zeros(out, dtype=torch.int64)
    unsigned = (x8.to(torch.int16) + 128).to(torch.uint8)

    def int8_linear() -> object:
        output = (30.0, 128, torch.uint8)  # scale, zero point, type
        return torch.ops.onednn.qlinear_pointwise(
            unsigned, 0.05, 128, packed, scales, zeros, None, output[0], output[1], output[2], "none", [], ""
        )

    return {
        "f32": partial(F.linear, x, weight),
        "bf16": partial(F.linear, x.bfloat16(), weight.bfloat16()),
        "int8, uint8 out": int8_linear,
        "int8, int32 out": partial(torch._int_mm, x8, weight8.T.contiguous(), out=sums),
    }


def gmacs(variant: Variant) -> float:
    """Multiply-accumulates of one image in 1e9, all matrix products of the graph counted, those of resizing too."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:  # no memory for weights and images
        CrossViT(variant)(torch.zeros(1, 3, SIDE, SIDE))
    return float(counter.get_total_flops()) / 2e9


if __name__ == "__main__":
    run(roofline, program="benchmarks.roofline")
