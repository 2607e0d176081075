"""What a network costs, and what the machine could reach at most: `python -m benchmarks.roofline --help`.

Prints Markdown, and reports only.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import openvino
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from app.engines.cpu.openvino_graph import without_identities
from benchmarks.command_line import run
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table
from bundle.file_names import GRAPHS
from bundle.reader import open_bundle
from bundle.tensors import INPUT
from model.crossvit import CrossViT
from model.spec import RESOLUTIONS, Variant, patch_grids, variant_named

SIDE, BATCH = 224, 8
WARM_UP_RUNS, RUNS = 10, 90
PROFILED_WARM_UP_RUNS, PROFILED_RUNS = 2, 8


def products(variant: str) -> None:
    """Time the network's largest matrix product at 224 and batch 8 alone, in each precision.

    It also prints the images per second that this rate would give if the network were nothing else.
    """
    network = variant_named(variant)
    dim = network.dims[1]
    rows = BATCH * (1 + patch_grids(SIDE)[1] ** 2)
    image_gmacs = gmacs(empty_network(network), SIDE)
    print(f"{variant} at {SIDE}: {image_gmacs:.2f} GMAC an image; {machine()}\n")
    found = []
    for name, product in matrix_products(rows, dim, 3 * dim).items():
        rates = 2e-9 * rows * dim * 3 * dim / np.array(timings(product))
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


def timings(product: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(WARM_UP_RUNS + RUNS):
        started = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP_RUNS:]


def layers(bundle: Path, precision: str = "int8", batch: int = BATCH, rows: int = 16) -> None:
    """Print the slowest layers of an OpenVINO engine, f32 or int8, for one batch at 224 in one stream on all cores.

    Layers of the same kind and shapes are added up.
    """
    core = openvino.Core()
    model = core.read_model(bundle / GRAPHS[precision])
    model.reshape({INPUT: [batch, SIDE, SIDE, 3]})
    without_identities(model)
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
    times = layer_times(core.compile_model(model, "CPU", options), batch)
    total = times["ms an image"].sum()
    print(f"{bundle.name}, {precision}, batch {batch} at {SIDE}: {total:.1f} ms an image; {machine()}\n")
    found = times.groupby(["kind", "kernel", "inputs"])["ms an image"].agg(["size", "sum"]).nlargest(rows, "sum")
    found["layers"], found["ms an image"] = found["size"] // PROFILED_RUNS, found["sum"].map("{:.2f}".format)
    found["share"] = (found["sum"] / total).map("{:.1%}".format)
    print_table(found.reset_index()[["share", "ms an image", "layers", "kind", "kernel", "inputs"]])


def layer_times(compiled: openvino.CompiledModel, batch: int) -> pd.DataFrame:
    """A row for each layer and run, with the milliseconds that it takes of an image, averaged over the runs."""
    shapes = {
        node.get_friendly_name(): " x ".join(str(value.get_partial_shape()) for value in node.inputs()[:2])
        for node in compiled.get_runtime_model().get_ordered_ops()
    }
    request = compiled.create_infer_request()
    found = []
    for number in range(PROFILED_WARM_UP_RUNS + PROFILED_RUNS):
        request.infer([np.zeros((batch, SIDE, SIDE, 3), np.uint8)])
        for layer in request.profiling_info if number >= PROFILED_WARM_UP_RUNS else []:
            milliseconds = 1000 * layer.real_time.total_seconds() / PROFILED_RUNS / batch
            if milliseconds:
                found.append([layer.node_type, layer.exec_type, shapes.get(layer.node_name, ""), milliseconds])
    return pd.DataFrame(found, columns=["kind", "kernel", "inputs", "ms an image"])


def networks(bundles: list[Path]) -> None:
    """Print parameters, multiplications and parity with PyTorch of bundles."""
    rows = []
    for path in bundles:
        manifest = open_bundle(path).manifest
        variant = variant_named(manifest.variant)
        network = empty_network(variant)
        parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        row = {"network": variant.name, "parameters, M (paper)": f"{parameters:.2f} ({variant.million_params:.2f})"}
        for side, paper in zip(RESOLUTIONS, variant.gmacs, strict=True):
            row[f"GMAC at {side} (paper)"] = f"{gmacs(network, side):.2f} ({paper:.2f})"
        for side, worst in (manifest.parity.worst if manifest.parity else {}).items():
            row[f"worst difference at {side}"] = f"{worst:.1e}"
        rows.append(row)
    print_table(pd.DataFrame(rows).fillna(""))


def empty_network(variant: Variant) -> CrossViT:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return CrossViT(variant)


def gmacs(network: CrossViT, side: int) -> float:
    """Multiply-accumulates of one image in 1e9, all matrix products of the graph counted, those of resizing too."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, side, side))
    return float(counter.get_total_flops()) / 2e9


if __name__ == "__main__":
    run(products, layers, networks, program="benchmarks.roofline")
