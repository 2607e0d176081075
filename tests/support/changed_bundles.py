"""Bundles that change on disk while they are served."""

import json
import shutil
from pathlib import Path


def change_source(bundle: Path, source: str) -> None:
    """Put another bundle at its place, as an export does."""
    new = Path(shutil.copytree(bundle, bundle.with_name(".new")))
    manifest = json.loads((new / "manifest.json").read_text())
    manifest["weights"]["source"] = source
    (new / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(bundle)
    new.rename(bundle)


def warn(bundle: Path, caution: str) -> None:
    """Have the weights of `bundle` call for caution, as those that ship do."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["weights"]["caution"] = caution
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def without_inspection(bundle: Path, copy: Path) -> Path:
    """`copy`, made as an earlier version made bundles: without the graph that explains."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"]["inspection.onnx"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "inspection.onnx").unlink()
    return copy
