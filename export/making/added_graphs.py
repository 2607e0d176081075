"""Graphs beside float32, and what the manifest says of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bundle.agreement import Agreement
from bundle.file_names import GRAPHS, MODEL
from bundle.manifest import HalfPrecision, Photographs, Quantization
from bundle.precisions import INT8
from export.inputs.export_request import ExportInputs
from export.measurement.float32_answers import MAX_MEASURED_VIEWS, Float32Answers, float32_answers
from export.measurement.openvino_precisions import agreements, has_bfloat16
from export.measurement.photos import PhotoSet
from model.checkpoint import Say
from model.spec import Activation, Preprocessing

QUICK_VIEWS = 40  # of the photographs, where only bfloat16 is measured


@dataclass(frozen=True)
class AddedGraphs:
    """What the manifest says of the graphs beside float32.

    Attributes:
        halves: in half precision.
        measured_on: the photographs of all agreements; None without them.
        agreement: of the precisions that OpenVINO may serve in.
        quantization: how the graph in 8 bits was made; None without one.
    """

    measured_on: Photographs | None = None
    halves: dict[str, HalfPrecision] = field(default_factory=dict)
    agreement: dict[str, dict[int, Agreement]] = field(default_factory=dict)
    quantization: Quantization | None = None

    @property
    def files(self) -> list[str]:
        return [GRAPHS[precision] for precision in (*self.halves, *([INT8] if self.quantization else []))]


def add_graphs(
    folder: Path, inputs: ExportInputs, preprocessing: Mapping[int, Preprocessing], default: int, say: Say
) -> AddedGraphs:
    """Write the requested graphs beside float32 into `folder`, and compare them with it at every resolution.

    Where only bfloat16 is to be measured, that is done in fewer views, by default at the resolution `default`.
    """
    request = inputs.request
    if inputs.measuring is None:
        return AddedGraphs()
    if not (request.precisions or request.int8):
        measured_on = inputs.measuring.for_manifest(QUICK_VIEWS)
        if not has_bfloat16():
            return AddedGraphs(measured_on)
        measured = preprocessing if request.bfloat16 == "all" else {default: preprocessing[default]}
        answers = _float32(folder, inputs.measuring, measured, request.options.activation, QUICK_VIEWS, say)
        return AddedGraphs(measured_on, agreement=agreements(folder, answers, say))
    answers = _float32(folder, inputs.measuring, preprocessing, request.options.activation, MAX_MEASURED_VIEWS, say)
    measured_on = inputs.measuring.for_manifest(MAX_MEASURED_VIEWS)
    halves = {precision: _add_half(folder, precision, answers, say) for precision in request.precisions}
    if inputs.calibrating is None:
        return AddedGraphs(measured_on, halves)
    quantization = _add_int8(folder, preprocessing, inputs.calibrating, say)
    return AddedGraphs(measured_on, halves, agreements(folder, answers, say), quantization)


def _float32(
    folder: Path,
    photos: PhotoSet,
    preprocessing: Mapping[int, Preprocessing],
    activation: Activation,
    most_views: int,
    say: Say,
) -> dict[int, Float32Answers]:
    say("running float32 on photographs …")
    return float32_answers(folder / MODEL, preprocessing, photos.files, activation, most_views)


# What these two import is not installed where only shipped templates are filled.


def _add_half(folder: Path, precision: str, answers: Mapping[int, Float32Answers], say: Say) -> HalfPrecision:
    from export.measurement.reduced_precision import add_precision

    say(f"writing the graph in {precision}, comparing it with float32 …")
    return add_precision(folder, precision, answers, say)


def _add_int8(folder: Path, preprocessing: Mapping[int, Preprocessing], photos: PhotoSet, say: Say) -> Quantization:
    from export.measurement.int8 import add_int8

    return add_int8(folder, preprocessing, photos, say)
