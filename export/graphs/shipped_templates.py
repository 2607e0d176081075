"""The graph templates that ship, two for each network, and the record of how they were made.

`make graphs` writes them (export/ship_templates.py). The variants at 384 have the template of the same network at 224.
"""

import hashlib
import io
import lzma
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from bundle.atomic_files import file_sha256
from bundle.bundle_errors import ExplainedError
from export.graphs.graph_template import Templates
from model.spec import RESOLUTIONS, VARIANTS, Variant

SHIPPED_TEMPLATES = Path(__file__).parents[1] / "data" / "graphs"
RECORD, LOGITS, SUFFIX, INSPECTION_SUFFIX = "record.json", "logits.npz", ".onnx.xz", ".inspection.onnx.xz"
NETWORKS = tuple(name for name in VARIANTS if not name.endswith("_384"))
# PyTorch's logits are recorded for position embeddings of both resolutions, at all sides, for three images.
TRAINED_RESOLUTIONS, SIDES, RECORDED_CLASSES = (224, 384), RESOLUTIONS, 7
# What determines the templates, from the root of the project.
SOURCES = (
    "bundle/inspection.py",
    "bundle/tensors.py",
    "export/graphs/folding.py",
    "export/graphs/inspected_network.py",
    "export/graphs/served_graph.py",
    "export/graphs/served_network.py",
    "export/graphs/template_inputs.py",
    "model/bicubic.py",
    "model/crossvit.py",
    "model/fusion_inspection.py",
    "model/spec.py",
)
_ROOT = Path(__file__).parents[2]


class BadTemplate(ExplainedError):
    """A file of the shipped templates is missing, or is not the one that was made."""


class TemplateRecord(BaseModel):
    """How the templates were made.

    Attributes:
        sources: the sha256 of each file of SOURCES.
        made_with: versions of packages.
        onnxruntime: the version that was compared with PyTorch.
        templates: the sha256 of each network's template, uncompressed.
        inspection_templates: those of the inspection graphs.
        logits: the sha256 of the file with PyTorch's logits.
        worst: the largest difference of any logit from PyTorch's, by network and side.
        inspection_worst: the same of any output of the inspection graph; contributions are compared with autograd.
    """

    sources: dict[str, str]
    made_with: dict[str, str]
    onnxruntime: str
    templates: dict[str, str]
    inspection_templates: dict[str, str]
    logits: str
    worst: dict[str, dict[int, float]]
    inspection_worst: dict[str, dict[int, float]]


def network_of(variant: Variant) -> str:
    """The name of the network whose template `variant` has."""
    return variant.name.removesuffix("_384")


def shipped_template(network: str) -> onnx.ModelProto:
    """The template of `network`'s served graph. Raises BadTemplate."""
    return _template(f"{network}{SUFFIX}", template_record().templates.get(network))


def templates_of(network: str) -> Templates:
    """The templates of `network`'s served graph and of its inspection graph. Raises BadTemplate."""
    inspection = _template(f"{network}{INSPECTION_SUFFIX}", template_record().inspection_templates.get(network))
    return Templates(shipped_template(network), inspection)


def _template(name: str, sha256: str | None) -> onnx.ModelProto:
    path = SHIPPED_TEMPLATES / name
    try:
        content = lzma.decompress(path.read_bytes())
    except (OSError, lzma.LZMAError) as err:
        raise _bad(path, str(err)) from err
    template = onnx.ModelProto()
    template.ParseFromString(_checked(content, sha256, path))
    return template


@cache
def template_record() -> TemplateRecord:
    """Raises BadTemplate."""
    path = SHIPPED_TEMPLATES / RECORD
    try:
        return TemplateRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as err:
        raise _bad(path, str(err)) from err


def recorded_logits(network: str, trained_resolution: int) -> dict[int, NDArray[np.float32]]:
    """PyTorch's logits (outputs, images, classes) for rule-made weights and images, by side. Raises BadTemplate."""
    path = SHIPPED_TEMPLATES / LOGITS
    try:
        content = _checked(path.read_bytes(), template_record().logits, path)
    except OSError as err:
        raise _bad(path, str(err)) from err
    with np.load(io.BytesIO(content)) as arrays:
        return {side: arrays[logits_key(network, trained_resolution, side)] for side in SIDES}


def logits_key(network: str, trained_resolution: int, side: int) -> str:
    """The name of an array in the file with PyTorch's logits."""
    return f"{network}_trained_{trained_resolution}_side_{side}"


def sources_sha256() -> dict[str, str]:
    """The sha256 of each file that determines the templates, as it is now."""
    return {name: file_sha256(_ROOT / name) for name in SOURCES}


def sources_are_current() -> bool:
    """Whether the templates are what these sources make. Raises BadTemplate."""
    return template_record().sources == sources_sha256()


def _checked(content: bytes, sha256: str | None, path: Path) -> bytes:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _bad(path, f"its sha256 is not the one in {RECORD}")
    return content


def _bad(path: Path, reason: str) -> BadTemplate:
    return BadTemplate(
        f"{path} cannot be used ({reason}); install the package again, or run `make graphs` in a checkout"
    )
