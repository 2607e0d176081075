"""The manifest of a plan, `engines/*/passport.json`, as it is written and as it is read; see docs/bundle.md.

It says which graph the plan was built from, and which GPU and TensorRT it was built for.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bundle.agreement import Agreement
from bundle.atomic_files import write_json
from bundle.file_names import PASSPORT
from bundle.manifest import Informative
from bundle.precisions import PlanPrecision

PlanFormat = Literal[1]
PLAN_FORMAT: PlanFormat = 1


def _ascending(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if list(sizes) != sorted(set(sizes)):
        raise ValueError("they must ascend")
    return sizes


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
PrintableName = Annotated[
    str, Field(pattern=r"^[\x20-\x7e]+$", max_length=200)
]  # goes into messages: no control characters


class PlanRequest(BaseModel):
    """What is known of a plan before it is built.

    Attributes:
        format: of passport.json.
        resolution: what the bundle calls the size of the images.
        side: the size of the images in pixels.
        precision: of the weights and products.
        batch_sizes: optimisation profile i is made for `batch_sizes[i]` images.
        least_sizes: profile i takes `least_sizes[i]` images or more; if empty, `batch_sizes[i]` images only.
        attention: "products" around a softmax, or ONNX's "operator".
        graph_sha256: of the bundle's model.onnx.
        tensorrt: the version that builds it.
        gpu: the GPU's name.
        compute_capability: the GPU's, such as "9.0".
        driver: the NVIDIA driver's version.
        cuda: the newest CUDA that the driver supports.
        version_compatible: whether later TensorRT of the same major version can read it.
        optimization_level: TensorRT's builder_optimization_level.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    format: PlanFormat
    resolution: Count
    side: Count
    precision: PlanPrecision
    batch_sizes: Annotated[tuple[BatchSize, ...], Field(min_length=1), AfterValidator(_ascending)]
    least_sizes: tuple[BatchSize, ...] = ()
    attention: Informative[str] = None
    graph_sha256: Sha256
    tensorrt: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)+(\.post[0-9]+)?$", max_length=40)]
    gpu: PrintableName
    compute_capability: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$", max_length=10)]
    driver: PrintableName
    cuda: PrintableName
    version_compatible: bool
    optimization_level: Informative[int] = None

    def same_plan_as(self, other: "PlanRequest") -> bool:
        """Whether both ask for the same plan. Driver and CUDA may differ: any runs it."""
        fields = set(PlanRequest.model_fields) - {"driver", "cuda"}
        return self.model_dump(include=fields) == other.model_dump(include=fields)


class PlanManifest(PlanRequest):
    """The content of passport.json: the request, and the plan that was built.

    `proof[i]` is how profile i agreed with the bundle's graph in ONNX Runtime on the CPU.
    """

    plan_sha256: Sha256
    plan_bytes: Annotated[int, Field(ge=1, le=1 << 36)]
    workspace_bytes: Informative[int] = None
    proof: Informative[list[Agreement]] = None
    built: Informative[str] = None
    build_seconds: Informative[float] = None


def write_plan_manifest(folder: Path, manifest: PlanManifest) -> None:
    """Write passport.json into `folder`, without what is not known."""
    write_json(folder / PASSPORT, manifest.model_dump(mode="json", exclude_none=True))
