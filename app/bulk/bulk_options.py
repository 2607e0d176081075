"""What a bulk run is asked for, and the manifest by which a later run knows that it is the same one."""

from importlib.metadata import version
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.configuration.settings import Settings
from app.errors import BadParameter
from bundle.reader import Bundle

DEFAULT_PART_SIZE = 1000
MAX_TOP_K = 50
DEFAULT_HELD_BYTES = 256_000_000

# Settings on which depends what an image becomes.
_IMAGE_SETTINGS = ("max_body_bytes", "max_pixels", "scaled_jpeg", "decode_bytes", "decode_seconds", "jpeg")


class BulkOptions(BaseModel):
    """What is wanted of each image, and how sources are read.

    Attributes:
        top_k: classes of each image.
        resolution: to classify at; None for the model's own.
        embeddings: whether rows have the image's embedding, of both branches.
        bytes_column: of Parquet sources, the column with the image files' bytes; `a.b` is the member b of a struct.
        path_column: of Parquet sources, the column with the image files' paths or URLs.
        id_column: of Parquet sources, the column with the rows' ids; by default the path, or `FILE#ROW`.
        part_size: images of a part, the least that is done anew after a kill; a tar file is always one part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = 5
    resolution: int | None = None
    embeddings: bool = False
    bytes_column: str | None = None
    path_column: str | None = None
    id_column: str | None = None
    part_size: Annotated[int, Field(ge=1)] = DEFAULT_PART_SIZE


class BulkModel(BaseModel):
    """What answered: each part has it, so that no row is without its origin."""

    model_config = ConfigDict(frozen=True)

    name: str
    bundle: str
    weights: str
    weights_source: str
    warning: str | None
    resolution: int
    precision: str

    @classmethod
    def of(cls, bundle: Bundle, resolution: int, precision: str) -> "BulkModel":
        manifest = bundle.manifest
        return cls(
            name=bundle.name,
            bundle=bundle.hash,
            weights=manifest.weights.id,
            weights_source=manifest.weights.source,
            warning=bundle.warning,
            resolution=resolution,
            precision=precision,
        )


class RunManifest(BaseModel):
    """What a folder of results was made of. Runs with the same manifest give the same rows."""

    format: int = 1
    crossvit: str
    sources: list[str]
    folder: str
    options: BulkOptions
    limits: dict[str, bool | int | float | str]
    model: BulkModel

    @classmethod
    def of(
        cls, sources: list[str], folder: str, options: BulkOptions, settings: Settings, model: BulkModel
    ) -> "RunManifest":
        """That of a run; local paths in `sources` are relative to `folder`."""
        limits = {name: getattr(settings, name) for name in _IMAGE_SETTINGS}
        return cls(
            crossvit=version("crossvit"), sources=sources, folder=folder, options=options, limits=limits, model=model
        )

    def check_same(self, earlier: "RunManifest", place: str) -> None:
        """BadParameter, which names the differences, if `earlier`, the manifest at `place`, is not this one."""
        mine, theirs = _flat(self.model_dump()), _flat(earlier.model_dump())
        differences = [
            f"{name} was {theirs.get(name)!r} and is {mine.get(name)!r}"
            for name in dict.fromkeys([*theirs, *mine])
            if mine.get(name) != theirs.get(name)
        ]
        if differences:
            raise BadParameter(
                f"{place} holds the results of another run: {'; '.join(differences)}. Go on with the same, or name "
                "another folder"
            )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """The values by their names, with those of a group in its place."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            {"model" if key == "name" else key: each for key, each in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat
