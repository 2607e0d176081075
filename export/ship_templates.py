"""The graph templates that ship, made from PyTorch anew: `make graphs`.

Run it whenever a file of export.graphs.shipped_templates.SOURCES has changed, and commit what it writes. The same
sources with the same versions give the same templates, byte for byte.
"""

import hashlib
import lzma
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from bundle.atomic_files import file_sha256, replacing_folder, write_json
from export.graphs.inspected_network import Inspected
from export.graphs.rule_made import rule_made_images, rule_made_parameter
from export.graphs.served_graph import make_inspection_template, make_template
from export.graphs.served_network import Served
from export.graphs.shipped_templates import (
    INSPECTION_SUFFIX,
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
from export.making.graph_source import PARITY_TOLERANCE
from export.measurement.comparison import Disagreement
from export.measurement.inspection_parity import inspection_difference
from export.measurement.onnx_sessions import ONNX_RUNTIME
from export.measurement.template_parity import Recorded, recorded_differences, rule_made_graph
from model.crossvit import CrossViT
from model.spec import VARIANTS, Variant


@dataclass(frozen=True)
class MadeTemplates:
    """Both templates of `network`, PyTorch's logits by their names in the record, and the largest differences by side.

    Attributes:
        served: the content of the served graph's template; `worst` are its differences.
        inspection: that of the inspection graph's; `inspection_worst` are its differences.
    """

    network: str
    served: bytes
    inspection: bytes
    logits: dict[str, NDArray[np.float32]]
    worst: dict[int, float]
    inspection_worst: dict[int, float]


def main() -> int:
    """Write all templates, or nothing; returns the exit code."""
    sources = sources_sha256()  # before they can change
    with replacing_folder(SHIPPED_TEMPLATES) as folder, ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        made = []
        for templates in pool.map(_make, NETWORKS):
            network, worst = templates.network, [*templates.worst.values(), *templates.inspection_worst.values()]
            sizes = [
                _write(folder / f"{network}{SUFFIX}", templates.served),
                _write(folder / f"{network}{INSPECTION_SUFFIX}", templates.inspection),
            ]
            print(f"{network}: {sum(sizes)} bytes, within {max(worst):.1e}", flush=True)
            made.append(templates)
        logits: dict[str, Any] = {}
        for templates in made:
            logits |= templates.logits
        np.savez_compressed(folder / LOGITS, **logits)
        record = TemplateRecord(
            sources=sources,
            made_with=making_versions(),
            onnxruntime=ONNX_RUNTIME,
            templates={templates.network: hashlib.sha256(templates.served).hexdigest() for templates in made},
            inspection_templates={
                templates.network: hashlib.sha256(templates.inspection).hexdigest() for templates in made
            },
            logits=file_sha256(folder / LOGITS),
            worst={templates.network: templates.worst for templates in made},
            inspection_worst={templates.network: templates.inspection_worst for templates in made},
        )
        write_json(folder / RECORD, record.model_dump(mode="json"))
    return 0


def making_versions() -> dict[str, str]:
    """Versions of the packages that make templates; PyTorch's builds for CPUs and GPUs make the same."""
    return {package: version(package).partition("+")[0] for package in ("torch", "onnx", "onnxscript", "onnx_ir")}


def template_bytes(template: onnx.ModelProto) -> bytes:
    """The content of the file, the same for the same template."""
    return bytes(template.SerializeToString(deterministic=True))


def pytorch_logits(variant: Variant, trained_resolution: int) -> Recorded:
    """PyTorch's logits (outputs, images, classes) for rule-made weights and images, by side."""
    served = Served(rule_made_network(variant, trained_resolution))
    with torch.inference_mode():
        return {side: torch.stack(served(torch.from_numpy(rule_made_images(side)))).numpy() for side in SIDES}


def rule_made_network(variant: Variant, trained_resolution: int) -> CrossViT:
    """The network of `variant` in PyTorch, with rule-made weights."""
    network = CrossViT(variant, RECORDED_CLASSES, trained_resolution).eval()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict({name: torch.from_numpy(rule_made_parameter(name, shapes[name])) for name in shapes})
    return network


def _write(path: Path, template: bytes) -> int:
    """The number of bytes that were written."""
    return path.write_bytes(lzma.compress(template, preset=9 | lzma.PRESET_EXTREME))


def _make(network: str) -> MadeTemplates:
    """Raises Disagreement if a template gives anything else than PyTorch."""
    torch.set_num_threads(1)  # a process for each core
    template = make_template(VARIANTS[network])
    inspection = make_inspection_template(VARIANTS[network])
    arrays, worst = {}, dict.fromkeys(SIDES, 0.0)
    for trained in TRAINED_RESOLUTIONS:
        logits = pytorch_logits(VARIANTS[network], trained)
        differences = recorded_differences(rule_made_graph(template, VARIANTS[network], trained), logits, SIDES)
        for side, difference in differences.items():
            arrays[logits_key(network, trained, side)] = logits[side]
            worst[side] = max(worst[side], difference)
            scale = max(1.0, float(np.abs(logits[side]).max()))
            if not difference <= PARITY_TOLERANCE * scale:  # NaN fails too
                raise Disagreement(f"{network} trained at {trained} differs from PyTorch by {difference:.1e} at {side}")
    return MadeTemplates(
        network,
        template_bytes(template),
        template_bytes(inspection),
        logits=arrays,
        worst=worst,
        inspection_worst={trained: _inspected(inspection, network, trained) for trained in TRAINED_RESOLUTIONS},
    )


def _inspected(template: onnx.ModelProto, network: str, trained_resolution: int) -> float:
    """The largest difference of any output of the inspection graph at the resolution that it is trained at."""
    graph = rule_made_graph(template, VARIANTS[network], trained_resolution).SerializeToString()
    inspected = Inspected(rule_made_network(VARIANTS[network], trained_resolution))
    return inspection_difference(inspected, rule_made_images(trained_resolution), graph, PARITY_TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
