"""The time of each layer of an OpenVINO engine: `python -m benchmarks.layers BUNDLE --precision int8`.

Compiles one of the bundle's graphs for one batch at 224, as one stream on all cores. OpenVINO times each layer. Prints
Markdown: layers of the same kind and shape are added up, the longest times come first.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import openvino

from app.engines.cpu.openvino_graph import without_identities
from benchmarks.machine import line as machine
from bundle.file_names import GRAPHS

SIDE = 224
WARM_UP, RUNS = 2, 8
Layer = tuple[str, str, str]  # its kind, the kernel, and the shapes of its first two inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", choices=("f32", "int8"), default="int8")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=int, default=16)
    args = parser.parse_args()
    core = openvino.Core()
    model = core.read_model(args.bundle / GRAPHS[args.precision])
    model.reshape({"image": [args.batch, SIDE, SIDE, 3]})
    without_identities(model)
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
    layers = timed(core.compile_model(model, "CPU", options), args.batch)
    total = sum(milliseconds for _, milliseconds in layers.values())
    print(f"{args.bundle.name}, {args.precision}, batch {args.batch} at {SIDE}: {total:.1f} ms an image; {machine()}\n")
    print("| share | ms an image | layers | kind, kernel | inputs |\n|---|---|---|---|---|")
    longest = sorted(layers.items(), key=lambda found: -found[1][1])
    for (kind, kernel, shapes), (count, milliseconds) in longest[: args.rows]:
        print(f"| {milliseconds / total:.1%} | {milliseconds:.2f} | {count:.0f} | {kind}, {kernel} | {shapes} |")


def timed(compiled: openvino.CompiledModel, batch: int) -> dict[Layer, tuple[float, float]]:
    """How many layers of each sort there are, and the milliseconds that they take of an image."""
    shapes = {
        node.get_friendly_name(): " x ".join(str(value.get_partial_shape()) for value in node.inputs()[:2])
        for node in compiled.get_runtime_model().get_ordered_ops()
    }
    request = compiled.create_infer_request()
    found: dict[Layer, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for run in range(WARM_UP + RUNS):
        request.infer([np.zeros((batch, SIDE, SIDE, 3), np.uint8)])
        for layer in request.profiling_info if run >= WARM_UP else []:
            seconds = layer.real_time.total_seconds()
            if seconds:
                key = (layer.node_type, layer.exec_type, shapes.get(layer.node_name, ""))
                count, milliseconds = found[key]
                found[key] = (count + 1 / RUNS, milliseconds + 1000 * seconds / RUNS / batch)
    return found


if __name__ == "__main__":
    main()
