"""How graphs in 8 bits are made, and whether they can be made here; imports none of the packages that make them."""

from importlib.metadata import PackageNotFoundError, version

from bundle.installation import require_packages
from bundle.manifest import Quantization

KEPT_IN_FLOAT32 = (
    "pixels and position embeddings",
    "patch convolutions",
    "attention's output projections",
    "cross-attention",
    "last LayerNorms and heads",
)
SMOOTH_QUANT_ALPHA = 0.3  # NNCF's default is 0.95; docs/bundle.md has what others give
CALIBRATION_VIEWS = 24  # at the least resolution
CALIBRATION_VIEWS_ELSEWHERE = 2  # at each of the others


def require_quantization() -> None:
    """Raise NotInstalled unless NNCF and onnx_ir, and OpenVINO to measure on, are installed."""
    require_packages(("nncf", "onnx_ir", "openvino"), "quantize", "int8")


def is_current(made: Quantization | None) -> bool:
    """Whether a graph in 8 bits was made as this version makes it, by what is installed, if it is."""
    if made is None or (made.smooth_quant_alpha, made.kept_in_float32) != (SMOOTH_QUANT_ALPHA, KEPT_IN_FLOAT32):
        return False
    try:
        return (made.made_by, made.measured_by) == (installed_version("nncf"), installed_version("openvino"))
    except PackageNotFoundError:
        return True  # it cannot be made again here


def installed_version(package: str) -> str:
    """Such as "nncf 3.4.0". Raises PackageNotFoundError."""
    return f"{package} {version(package)}"
