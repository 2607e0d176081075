"""Float32's answers to views of photographs, which every other precision is compared with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle.agreement import Agreement
from bundle.tensors import Images, Outputs
from export.measurement.comparison import Disagreement, compare
from export.measurement.onnx_sessions import RunImages, in_batches, onnxruntime_session
from export.measurement.photos import views
from model.spec import Activation, Preprocessing

# At the least resolution; fewer where an image takes longer.
MAX_MEASURED_VIEWS = 200
MIN_MEASURED_VIEWS = 8


@dataclass(frozen=True)
class Float32Answers:
    """Views of photographs at one resolution, and float32's logits.

    Attributes:
        images: (views, side, side, 3); view i is of photograph i modulo `photographs`.
        logits: (outputs, views, classes).
        photographs: how many there are.
        activation: makes scores of the logits.
    """

    images: Images
    logits: Outputs
    photographs: int
    activation: Activation


def float32_answers(
    graph: Path,
    preprocessing: Mapping[int, Preprocessing],
    photos: Sequence[Path],
    activation: Activation,
    most_views: int,
) -> dict[int, Float32Answers]:
    """The answers of the float32 `graph` to views of `photos`, by resolution; `most_views` at the least resolution.

    Raises NoPhotos.
    """
    run = onnxruntime_session(graph)
    least = min(steps.crop for steps in preprocessing.values())
    answers = {}
    for resolution, steps in preprocessing.items():
        count = max(MIN_MEASURED_VIEWS, round(most_views * (least / steps.crop) ** 4))
        images = views(steps, count, photos)
        answers[resolution] = Float32Answers(images, in_batches(run, images), min(count, len(photos)), activation)
    return answers


def measure_agreement(
    precision: str,
    expected: Mapping[int, Float32Answers],
    run: RunImages,
    say: Callable[[str], None],
) -> dict[int, Agreement]:
    """How `run` agrees with float32 at each resolution. Raises Disagreement if its logits are not finite."""
    measured = {}
    for resolution, answers in expected.items():
        try:
            compared = compare(answers.logits, in_batches(run, answers.images), answers.activation, answers.photographs)
        except Disagreement as err:
            raise Disagreement(f"{precision} at {resolution}: {err}; use another precision") from err
        say(f"  {precision} at {resolution}: {compared.describe()}")
        measured[resolution] = compared
    return measured
