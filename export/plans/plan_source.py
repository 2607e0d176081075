"""The bundle that plans are built from; needs no PyTorch."""

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir

from bundle.bundle_errors import BadBundle
from bundle.file_names import MODEL
from bundle.manifest import Manifest
from bundle.precisions import F32
from export.graphs.fixed_side import fix_side
from export.graphs.fused_attention import fuse_attention
from export.graphs.half_precision import to_half
from export.inputs.existing_bundle import read_existing_file, read_existing_manifest
from export.plans.build_spec import Unable
from model.spec import UNTRAINED, Preprocessing

PRODUCTS, OPERATOR = "products", "operator"


@dataclass(frozen=True)
class PlanSource:
    """A bundle at `path`; `graph` is the content of its model.onnx."""

    path: Path
    graph: bytes
    manifest: Manifest

    @property
    def graph_sha256(self) -> str:
        return self.manifest.files[MODEL]

    @property
    def preprocessing(self) -> dict[int, Preprocessing]:
        """By the resolutions that the bundle offers."""
        return self.manifest.preprocessing

    @property
    def untrained(self) -> bool:
        return self.manifest.weights.id == UNTRAINED

    def at(self, resolution: int, precision: str, attention: str = PRODUCTS) -> onnx_ir.Model:
        """The graph to build: at one side, all but the batch folded, in `precision`. Raises Unable.

        `attention` is PRODUCTS, or OPERATOR for ONNX's own, which TensorRT has from 10.14 on.
        """
        try:
            model = onnx_ir.from_proto(onnx.load_from_string(self.graph))
            fix_side(model, self.preprocessing[resolution].crop)
            if attention == OPERATOR:
                fuse_attention(model, heads_apart=True)
            if precision != F32:
                # TensorRT's parser passes stash_type on only in weakly typed networks; casts work in all.
                to_half(model, precision, wide=("LayerNormalization",))
        except (RuntimeError, OverflowError) as err:
            raise Unable(f"no graph can be made for {resolution} in {precision}: {err}") from err
        return model

    def check_unchanged(self) -> None:
        """Raise Unable if another bundle has replaced this one since."""
        try:
            files = read_existing_manifest(self.path, self.manifest.variant).files
        except BadBundle:
            files = {}
        if files.get(MODEL) != self.graph_sha256:
            raise Unable(f"{self.path} has been replaced meanwhile, and its graph is another: start again")


def read_source(bundle: Path, variant: str) -> PlanSource:
    """The bundle at `bundle`. Raises BadBundle if that is damaged, or another variant's."""
    manifest = read_existing_manifest(bundle, variant)
    return PlanSource(bundle, read_existing_file(bundle, MODEL, manifest), manifest)
