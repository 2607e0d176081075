"""What stands beside a plan (`engines/*/plan`): the graph, the GPU and the TensorRT that it was built from and for.

`export/plans/plan_folder.py` writes it; see docs/bundle.md. What else it holds is for people.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


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


class PlanManifest(BaseModel):
    """`batch_sizes[i]` is the number of images for which the plan's optimisation profile `i` was made.

    The profile takes from `least_sizes[i]` images to that many; without `least_sizes` just that many. `side` is that of
    the images, `resolution` what the bundle calls it.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    format: Literal[1]
    resolution: Count
    side: Count
    precision: Literal["f32", "fp16", "bf16"]
    batch_sizes: Annotated[tuple[BatchSize, ...], Field(min_length=1), AfterValidator(_ascending)]
    least_sizes: tuple[BatchSize, ...] = ()
    graph_sha256: Sha256
    plan_sha256: Sha256
    plan_bytes: Annotated[int, Field(ge=1, le=1 << 36)]
    tensorrt: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)+(\.post[0-9]+)?$", max_length=40)]
    version_compatible: bool
    gpu: PrintableName
    compute_capability: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$", max_length=10)]
    driver: PrintableName
    cuda: PrintableName
