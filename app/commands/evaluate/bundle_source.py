"""Predictions of a bundle's own engine, and of a second one: with the service's decoders, batches and self-tests."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.commands.evaluate.accuracy import TOP, Compared, ImagePrediction, Uncertainty
from app.commands.evaluate.class_mapping import check_classes, match_classes
from app.commands.evaluate.evaluation import Answered, PredictionSource
from app.configuration.settings import Settings
from app.errors import BadParameter
from app.serving.answer_details import covering_set
from app.serving.offline_model import offline
from app.serving.served_model import ServedModel
from bundle.calibration import ScoreCalibration
from bundle.class_labels import ClassLabel
from bundle.disagreement import branch_disagreement
from bundle.discovery import bundle_at
from bundle.reader import Bundle, open_bundle
from bundle.scores import best_classes
from bundle.tensors import Outputs
from model.command_line import notes
from model.spec import SOFTMAX, Activation

DEFAULT_COVERAGE = 0.9


@dataclass(frozen=True)
class Scoring:
    """How scores are calibrated, if they are, and the coverage of prediction sets."""

    calibration: ScoreCalibration | None = None
    coverage: float = DEFAULT_COVERAGE


RAW = Scoring()


class BundleSource:
    """Asks a model, and a second one for the same images.

    Args:
        model: the model whose accuracy is measured.
        truths: the model's class for each class of the data.
        resolution: the one to ask at.
        other: the second model, of the same classes.
        coverage: of the prediction sets, where the model's scores are calibrated.
    """

    def __init__(
        self,
        model: ServedModel,
        truths: Mapping[str, ClassLabel],
        resolution: int,
        other: ServedModel | None = None,
        coverage: float = DEFAULT_COVERAGE,
    ) -> None:
        self._model = model
        self._truths = truths
        self._resolution = resolution
        self._other = other
        self._coverage = coverage

    async def ask(self, category: str, body: bytes) -> ImagePrediction:
        """The prediction for the encoded image in `body`; raises as ServedModel.classify does."""
        truth = self._truths[category]
        answer = await self._model.classify(body, self._resolution)
        others = None if self._other is None else (await self._other.classify(body, self._resolution)).outputs
        bundle = self._model.bundle
        return image_prediction(
            answer.outputs,
            truth,
            bundle.labels,
            others,
            bundle.manifest.activation,
            Scoring(answer.calibration, self._coverage),
        )


@asynccontextmanager
async def bundle_source(
    categories: Collection[str],
    settings: Settings,
    second: Settings | None,
    resolution: int | None,
    coverage: float = DEFAULT_COVERAGE,
) -> AsyncIterator[PredictionSource]:
    """The engine that `settings` describe, and the `second` one, loaded.

    Raises as open_bundle, match_classes and ServedModel.load do.
    """
    both = [settings] if second is None else [settings, second]
    bundles = _open_bundles(both)
    try:
        check_classes(len(bundles[0].labels))
        truths = match_classes(categories, bundles[0].labels)
        _check_same_classes(bundles)
    except BadParameter:
        for bundle in bundles:
            bundle.close()
        raise
    async with AsyncExitStack() as stack:
        models = [
            await stack.enter_async_context(offline(bundle, each)) for bundle, each in zip(bundles, both, strict=True)
        ]
        resolution = models[0].resolution(resolution)
        for model in models:
            await model.load(model.resolution(resolution))
        yield _source(models, truths, resolution, coverage)


def _open_bundles(settings: Sequence[Settings]) -> list[Bundle]:
    bundles = [open_bundle(bundle_at(each.bundles, each.default_model)) for each in settings]
    for warning in dict.fromkeys(bundle.warning for bundle in bundles if bundle.warning):
        notes.print(warning, style="bold red")
    return bundles


def _check_same_classes(bundles: Sequence[Bundle]) -> None:
    for bundle in bundles[1:]:
        if bundle.labels != bundles[0].labels:
            raise BadParameter(f"{bundle.path} has other classes than {bundles[0].path}: their labels differ")


def _source(
    models: Sequence[ServedModel], truths: Mapping[str, ClassLabel], resolution: int, coverage: float
) -> PredictionSource:
    first, second = models[0], models[1] if len(models) > 1 else None
    return PredictionSource(
        BundleSource(first, truths, resolution, second, coverage).ask,
        in_flight=min(model.capacity for model in models),  # more images would be refused
        answered_by=lambda: [_answered(first, resolution)],
        against=None if second is None else _answered(second, resolution),
    )


def _answered(model: ServedModel, resolution: int) -> Answered:
    manifest, (engine, precision) = model.bundle.manifest, model.engine(resolution)
    weights = manifest.weights
    return Answered(model.bundle.name, manifest.variant, weights.id, weights.source, engine, precision, resolution)


def image_prediction(
    outputs: Outputs,
    truth: ClassLabel,
    labels: list[ClassLabel],
    others: Outputs | None = None,
    activation: Activation = SOFTMAX,
    scoring: Scoring = RAW,
) -> ImagePrediction:
    """The prediction that follows from the logits of one image.

    Sigmoid scores are not a distribution over the classes, so with them there is no likelihood of the true class.

    Args:
        outputs: the model's logits, (outputs, classes).
        truth: the true class.
        labels: the model's classes.
        others: the second model's logits, if there is one.
        activation: turns logits into scores.
        scoring: calibrates them.
    """
    temperature = scoring.calibration.temperature if scoring.calibration else 1.0
    best, score = best_classes(outputs[0], 1, activation, temperature)[0]
    has_nll = activation == SOFTMAX
    return ImagePrediction(
        labels[best],
        score,
        ranks=tuple(rank(logits, truth.index) for logits in outputs),
        truth=truth,
        nll=nll(outputs[0] / temperature, truth.index) if has_nll else None,
        other=None if others is None else _compared(outputs, others, truth.index),
        uncertainty=_uncertainty(outputs, truth.index, activation, scoring),
    )


def _uncertainty(outputs: Outputs, truth: int, activation: Activation, scoring: Scoring) -> Uncertainty:
    calibration = scoring.calibration
    threshold = calibration.sets.at(scoring.coverage) if calibration and calibration.sets else None
    covering = covering_set(outputs, calibration, threshold).classes if calibration and threshold else None
    return Uncertainty(
        raw_score=best_classes(outputs[0], 1, activation)[0][1],
        raw_nll=nll(outputs[0], truth) if activation == SOFTMAX else None,
        disagreement=float(branch_disagreement(outputs[1], outputs[2], activation)),
        same_branches=int(outputs[1].argmax()) == int(outputs[2].argmax()),
        set_size=None if covering is None else len(covering),
        covered=covering is not None and any(index == truth for index, _ in covering),
    )


def rank(logits: NDArray[np.float32], truth: int) -> int | None:
    """The rank of class `truth` among the best five, 1 for the best; None beyond them."""
    best = [index for index, _ in best_classes(logits, TOP)]
    return best.index(truth) + 1 if truth in best else None


def nll(logits: NDArray[np.float32], truth: int) -> float:
    """The negative log-likelihood of class `truth` under softmax."""
    wide = logits.astype(np.float64) - float(logits.max())
    return float(np.log(np.exp(wide).sum()) - wide[truth])


def _compared(outputs: Outputs, others: Outputs, truth: int) -> Compared:
    same_best = best_classes(outputs[0], 1)[0][0] == best_classes(others[0], 1)[0][0]
    return Compared(rank(others[0], truth), same_best, float(np.abs(outputs - others).max()))
