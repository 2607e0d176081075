"""A sample of the answers, for metrics of drift and a log of answers."""

from app.serving.answer_taps import AnsweredImages, RequestSample
from app.serving.served_model import ModelAnswer, ServedModel
from app.telemetry.answer_log import REQUEST_ID, AnswerLog, AnswerRow, utc_now
from app.telemetry.drift import AnswerFigures, DriftMetrics, answer_figures


class AnswerSample:
    """An AnswerTap of all models.

    Args:
        sample: the requests whose answers it sees.
        metrics: of drift.
        answer_log: gets a row for each image, if there is one.
    """

    def __init__(self, sample: RequestSample, metrics: DriftMetrics, answer_log: AnswerLog | None = None) -> None:
        self._sample = sample
        self._metrics = metrics
        self._log = answer_log

    def wants(self) -> bool:
        return self._sample.drawn()

    def see(self, answered: AnsweredImages) -> None:
        manifest, name = answered.model.bundle.manifest, answered.model.bundle.name
        rows = []
        for answer in answered.answers:
            temperature = answer.calibration.temperature if answer.calibration else 1.0
            figures = answer_figures(answer.outputs, manifest.activation, temperature)
            self._metrics.observe(name, manifest.classes, figures)
            if self._log is not None:
                rows.append(_row(answered.model, answer, figures))
        if self._log is not None:
            self._log.append(rows)


def _row(model: ServedModel, answer: ModelAnswer, figures: AnswerFigures) -> AnswerRow:
    index, score = figures.best[0]
    label = model.bundle.labels[index]
    _, precision = model.engine(answer.resolution)
    return AnswerRow(
        time=utc_now(),
        request_id=REQUEST_ID.get(),
        model=model.bundle.name,
        weights=model.bundle.manifest.weights.id,
        resolution=answer.resolution,
        precision=precision,
        index=index,
        wnid=label.wnid,
        label=label.label,
        score=score,
        entropy=figures.entropy,
        disagreement=figures.disagreement,
        top_indices=[each for each, _ in figures.best],
        top_scores=[each for _, each in figures.best],
    )
