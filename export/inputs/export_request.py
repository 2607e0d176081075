"""The request of export/to_onnx.py or export/pull.py, and the weights and settings that answer it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from export.measurement.photos import PhotoSet, measuring_set, photo_sets
from model.checkpoint import BadCheckpoint
from model.config_beside import NAME as CONFIG
from model.config_beside import config_beside, done_otherwise, labels_in, normalization_in, preprocessing_in
from model.spec import (
    IMAGENET,
    RESOLUTIONS,
    SOFTMAX,
    Activation,
    Normalization,
    Preprocessing,
    Variant,
    follow_from_one_side,
    preprocessing_at,
)
from model.weights import Weights, find_weights

Bfloat16At = Literal["none", "default", "all"]


@dataclass(frozen=True)
class ExportOptions:
    """Options of the graph and its answers.

    Attributes:
        resolutions: to offer; None is the usual ones and that of the checkpoint.
        preprocessing: that differs from the default, by resolution.
        normalization: of pixels; None is that of the config.json beside the checkpoint, else ImageNet's.
        activation: of the scores.
    """

    resolutions: tuple[int, ...] | None = None
    preprocessing: Mapping[int, Preprocessing] = field(default_factory=dict)
    normalization: Normalization | None = None
    activation: Activation = SOFTMAX

    def steps(self, sides: tuple[int, int]) -> dict[int, Preprocessing]:
        """The preprocessing at each resolution to offer, of a network that was trained at `sides` (S, L).

        Raises BadCheckpoint if it can be served at these only, and others are requested.
        """
        native = sides[1]
        only_native = not follow_from_one_side(*sides)
        if only_native and {*(self.resolutions or ()), *self.preprocessing} - {native}:
            raise BadCheckpoint(
                f"these weights were trained with sides of {sides[0]} and {native}, which are not those "
                f"of another resolution: leave out --resolutions and --preprocess"
            )
        offered = sorted(self.resolutions or {*(() if only_native else RESOLUTIONS), native})
        return {resolution: preprocessing_at(resolution) for resolution in offered} | dict(self.preprocessing)


@dataclass(frozen=True)
class ExportRequest:
    """The request of the command line.

    Attributes:
        variant: the network.
        weights: the choice, as model.weights.find_weights takes it, or what was found.
        labels: the file with the names of the classes; None is the one beside the weights, else ImageNet-1k's.
        out: the bundle's folder.
        options: of the graph and its answers.
        precisions: graphs in half precision beside float32.
        photos: the folder of photographs to measure precisions on; None as in export.measurement.photos.photo_sets.
        int8: whether to add a graph in 8 bits.
        calibration: the folder of photographs to calibrate it on; None is those shipped.
        if_changed: whether a bundle that was made from the same stays.
        bfloat16: where to measure how OpenVINO's bfloat16 agrees with float32, if no graph is added: at no resolution,
            the default one, or all.
        only_weights: the id that the weights must have; None for any.
    """

    variant: Variant
    weights: str | Weights
    labels: Path | None
    out: Path
    options: ExportOptions
    precisions: tuple[str, ...] = ()
    photos: Path | None = None
    int8: bool = False
    calibration: Path | None = None
    if_changed: bool = False
    bfloat16: Bfloat16At = "none"
    only_weights: str | None = None


@dataclass(frozen=True)
class ExportInputs:
    """The weights that a request names, and what the files beside them say.

    Attributes:
        request: of the command line.
        weights: not read yet.
        normalization: of pixels.
        labels_beside: the file beside the weights that names the classes.
        config: the content of the config.json beside the weights, if it is of their network.
        calibrating: the photographs to calibrate 8 bits on; None without them.
        measuring: the photographs to measure precisions on; None if only float32 is requested.
    """

    request: ExportRequest
    weights: Weights
    normalization: Normalization
    labels_beside: Path | None
    config: dict[str, Any] | None
    calibrating: PhotoSet | None
    measuring: PhotoSet | None

    def steps(self, sides: tuple[int, int]) -> dict[int, Preprocessing]:
        """The preprocessing at each resolution: that of the options, else of the config.json, else the default.

        `sides` (S, L) are what the network was trained at. Raises BadCheckpoint as ExportOptions.steps, and BadConfig.
        """
        steps = self.request.options.steps(sides)
        beside = preprocessing_in(self.config, sides) if self.config else {}
        return {
            resolution: default if resolution in self.request.options.preprocessing else beside.get(resolution, default)
            for resolution, default in steps.items()
        }


def find_inputs(request: ExportRequest, say: Callable[[str], None]) -> ExportInputs:
    """Raises WeightsUnavailable, BadCheckpoint, BadConfig and NoPhotos."""
    calibrating = measuring = None
    if request.int8:
        calibrating, measuring = photo_sets(request.calibration, request.photos)
    elif request.precisions or request.bfloat16 != "none":
        measuring = measuring_set(request.photos)
    weights = request.weights
    if isinstance(weights, str):
        weights = find_weights(weights, request.variant, say)
    config = config_beside(weights.path, request.variant) if weights.path and not weights.is_official else None
    for line in done_otherwise(config or {}):
        say(f"note: {line}")
    labels_beside = weights.labels
    if labels_beside is None and weights.path and config and labels_in(config):
        labels_beside = weights.path.with_name(CONFIG)
    return ExportInputs(
        request=request,
        weights=weights,
        normalization=request.options.normalization or (normalization_in(config) if config else None) or IMAGENET,
        labels_beside=labels_beside,
        config=config,
        calibrating=calibrating,
        measuring=measuring,
    )
