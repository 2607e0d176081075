"""The bundle that engines or Triton's models are made from: its manifest and files, checked."""

from pathlib import Path

from bundle.bundle_errors import BadBundle
from bundle.file_names import MANIFEST
from bundle.manifest import MANIFEST_FORMAT, Manifest, parse_manifest, read_manifest_head
from bundle.reader import read_checked


def read_existing_manifest(bundle: Path, variant: str) -> Manifest:
    """The manifest of the bundle at `bundle`. Raises BadBundle if that is damaged, or another variant's."""
    advice = _advice(bundle, variant)
    head = read_manifest_head(bundle)
    if head is None:
        raise BadBundle(f"{bundle} is not a bundle: {MANIFEST} is missing or broken; {advice}")
    if head.format != MANIFEST_FORMAT:
        raise BadBundle(f"{bundle} has format {head.format}, not {MANIFEST_FORMAT}; {advice}")
    if head.variant != variant:
        raise BadBundle(f"{bundle} is of {head.variant}, not {variant}; choose another --bundle or --variant")
    try:
        return parse_manifest((bundle / MANIFEST).read_bytes(), bundle / MANIFEST, advice)
    except OSError as err:
        raise BadBundle(f"{bundle / MANIFEST} cannot be read ({err.strerror}); {advice}") from err


def read_existing_file(bundle: Path, name: str, manifest: Manifest) -> bytes:
    """The content of the bundle's file `name`. Raises BadBundle if the manifest describes another."""
    return read_checked(bundle, name, manifest, _advice(bundle, manifest.variant))


def _advice(bundle: Path, variant: str) -> str:
    return f"export it again: python export/to_onnx.py --variant {variant} --out {bundle}"
