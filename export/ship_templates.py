"""The graph templates that ship, made from PyTorch anew: `make graphs`.

Run it whenever a file of export.graphs.shipped_templates.SOURCES has changed, and commit what it writes. The same
sources with the same versions give the same templates, byte for byte.
"""

import hashlib
import lzma
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from bundle.atomic_files import file_sha256, replacing_folder, write_json
from export.graphs.rule_made import rule_made_images, rule_made_parameter
from export.graphs.served_graph import Served, make_template
from export.graphs.shipped_templates import (
    LOGITS,
    NETWORKS,
    RECORD,
    RECORDED_CLASSES,
    SHIPPED_TEMPLATES,
    SIDES,
    SUFFIX,
    TRAINED_RESOLUTIONS,
    TemplateRecord,
    logits_key,
    sources_sha256,
)
from export.measurement.onnx_sessions import ONNX_RUNTIME
from export.measurement.template_parity import Recorded, recorded_differences, rule_made_graph
from model.crossvit import CrossViT
from model.spec import VARIANTS, Variant

TOLERANCE = 1e-5


def main() -> int:
    """Write all templates, or nothing; returns the exit code."""
    sources = sources_sha256()  # before they can change
    with replacing_folder(SHIPPED_TEMPLATES) as folder:
        arrays: dict[str, NDArray[np.float32]] = {}
        templates, worst = {}, {}
        for network in NETWORKS:
            started = time.monotonic()
            template = make_template(VARIANTS[network])
            templates[network] = _write_template(folder / f"{network}{SUFFIX}", template)
            worst[network] = _prove(network, template, arrays)
            print(
                f"{network}: within {max(worst[network].values()):.1e}, {time.monotonic() - started:.0f} s", flush=True
            )
        np.savez_compressed(folder / LOGITS, **arrays)  # type: ignore[arg-type]
        record = TemplateRecord(
            sources=sources,
            made_with={package: version(package) for package in ("torch", "onnx", "onnxscript", "onnx_ir")},
            onnxruntime=ONNX_RUNTIME,
            templates=templates,
            logits=file_sha256(folder / LOGITS),
            worst=worst,
        )
        write_json(folder / RECORD, record.model_dump(mode="json"))
    return 0


def template_bytes(template: onnx.ModelProto) -> bytes:
    """The content of the file, the same for the same template."""
    return bytes(template.SerializeToString(deterministic=True))


def pytorch_logits(variant: Variant, trained_resolution: int) -> Recorded:
    """PyTorch's logits (outputs, images, classes) for rule-made weights and images, by side."""
    network = CrossViT(variant, RECORDED_CLASSES, trained_resolution).eval()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict({name: torch.from_numpy(rule_made_parameter(name, shapes[name])) for name in shapes})
    served = Served(network)
    with torch.inference_mode():
        return {side: torch.stack(served(torch.from_numpy(rule_made_images(side)))).numpy() for side in SIDES}


def _write_template(path: Path, template: onnx.ModelProto) -> str:
    """Write `template` to `path`, compressed; returns its sha256."""
    content = template_bytes(template)
    path.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    return hashlib.sha256(content).hexdigest()


def _prove(network: str, template: onnx.ModelProto, arrays: dict[str, NDArray[np.float32]]) -> dict[int, float]:
    """Add PyTorch's logits to `arrays`; returns the largest differences from them. Exits if one is too large."""
    worst = dict.fromkeys(SIDES, 0.0)
    for trained in TRAINED_RESOLUTIONS:
        logits = pytorch_logits(VARIANTS[network], trained)
        graph = rule_made_graph(template, RECORDED_CLASSES, trained)
        differences = recorded_differences(graph, logits, SIDES)
        for side, difference in differences.items():
            arrays[logits_key(network, trained, side)] = logits[side]
            worst[side] = max(worst[side], difference)
            scale = max(1.0, float(np.abs(logits[side]).max()))
            if not difference <= TOLERANCE * scale:  # NaN fails too
                sys.exit(f"{network} trained at {trained}: logits at {side} differ from PyTorch's by {difference:.1e}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
