"""The bundle that engines are built from, checked; needs no PyTorch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir

from bundle.writer import FORMAT, MANIFEST, MODEL, read_manifest
from export.graphs.attention import fuse_attention
from export.graphs.half import to_half
from export.graphs.static import fix_side
from export.plans.build_spec import Unable
from model.spec import Preprocessing

PRODUCTS, OPERATOR = "products", "operator"


@dataclass(frozen=True)
class PlanSource:
    """`graph` is the bundle's model.onnx, `preprocessing` has the resolutions that it offers."""

    path: Path
    graph: bytes
    graph_sha256: str
    preprocessing: dict[int, Preprocessing]
    untrained: bool

    def at(self, resolution: int, precision: str, attention: str = PRODUCTS) -> onnx_ir.Model:
        """The graph as it is built: at one side, all but the batch folded, in `precision`. Raises Unable.

        `attention` is PRODUCTS, or OPERATOR for ONNX's own, which TensorRT has from 10.14 on.
        """
        try:
            model = onnx_ir.from_proto(onnx.load_from_string(self.graph))
            fix_side(model, self.preprocessing[resolution].crop)
            if attention == OPERATOR:
                fuse_attention(model, heads_apart=True)
            if precision != "f32":
                # TensorRT's parser passes stash_type on only where types are weak: said by casts, it holds in all.
                to_half(model, precision, wide=("LayerNormalization",))
        except (RuntimeError, OverflowError) as err:
            raise Unable(f"no graph can be made for {resolution} in {precision}: {err}") from err
        return model

    def check_unchanged(self) -> None:
        """Unable if another bundle has come to this place since."""
        manifest = read_manifest(self.path)
        if manifest is None or manifest.get("files", {}).get(MODEL) != self.graph_sha256:
            raise Unable(f"{self.path} has been replaced meanwhile, and its graph is another: start again")


def read_source(bundle: Path, variant: str) -> PlanSource:
    """The bundle at `bundle`. Unable if it is none, is damaged, or is another variant's."""
    manifest = read_manifest(bundle)
    again = f"export it again: python export/to_onnx.py --variant {variant} --out {bundle}"
    if manifest is None:
        raise Unable(f"{bundle} is no bundle: {MANIFEST} is missing or broken; {again}")
    if manifest.get("format") != FORMAT:
        raise Unable(f"{bundle} is of format {manifest.get('format')}, not {FORMAT}; {again}")
    if manifest.get("variant") != variant:
        raise Unable(f"{bundle} is of {manifest.get('variant')}, not {variant}; choose another --bundle or --variant")
    try:
        graph = (bundle / MODEL).read_bytes()
        source = PlanSource(
            bundle,
            graph,
            str(manifest["files"][MODEL]),
            {int(resolution): Preprocessing(**steps) for resolution, steps in manifest["preprocessing"].items()},
            manifest["weights"]["id"] == "untrained",
        )
    except (LookupError, TypeError, ValueError, AttributeError, FileNotFoundError) as err:
        raise Unable(f"{bundle} is damaged ({type(err).__name__}: {err}); {again}") from err
    if hashlib.sha256(graph).hexdigest() != source.graph_sha256:
        raise Unable(f"{bundle / MODEL} is not the file that the manifest describes; {again}")
    return source
