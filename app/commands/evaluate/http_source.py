"""Predictions of a running server, by POST /classify with one image a request.

The server names its five best classes, not all its classes. PredictionMatcher finds the true one by the wnid, label and
index of each. So a class of the data that the model lacks counts as never found; logits, branches and the likelihood
are not known.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlencode

from pydantic import ValidationError

from app.api.schemas import AnsweredBy, Classification, ModelInfo, Prediction
from app.commands.bench.http_client import HttpAnswer, LoadClient, NoAnswer
from app.commands.bench.load_summary import describe_problem
from app.commands.bench.server_bench import find_model
from app.commands.evaluate.accuracy import TOP, ImagePrediction
from app.commands.evaluate.class_mapping import PredictionMatcher, check_classes
from app.commands.evaluate.evaluation import Answered, NotAnswered, PredictionSource
from bundle.class_labels import ClassLabel

_RETRY_STATUSES = {429, 503}  # the queue is full, or the engine is being started
_DEFAULT_RETRY_SECONDS = 1  # if the server does not say


class HttpSource:
    """Asks the server of `client`; `answered_by` lists the models that gave answers, in the order of their first."""

    def __init__(
        self, client: LoadClient, truths: PredictionMatcher, model: str | None = None, resolution: int | None = None
    ) -> None:
        query = {"top_k": TOP, "model": model, "resolution": resolution}
        self._path = f"/classify?{urlencode({name: value for name, value in query.items() if value is not None})}"
        self._client = client
        self._truths = truths
        self.answered_by: list[AnsweredBy] = []

    async def ask(self, category: str, body: bytes) -> ImagePrediction:
        """The prediction for the encoded image in `body`; NotAnswered for any other answer than 200."""
        try:
            answer = await self._client.ask(self._client.post(self._path, body))
        except NoAnswer as err:
            raise NotAnswered(str(err), kind=str(err)) from err
        classification = _classification(answer)
        if classification.model not in self.answered_by:
            self.answered_by.append(classification.model)
        predictions = classification.predictions
        rank = self._truths.rank(category, predictions)
        return ImagePrediction(
            best=_label(predictions[0]),
            score=predictions[0].score,
            ranks=(rank,),
            truth=None if rank is None else _label(predictions[rank - 1]),
        )


@asynccontextmanager
async def http_source(
    categories: Collection[str], url: str, key: str | None, clients: int, model: str | None, resolution: int | None
) -> AsyncIterator[PredictionSource]:
    """The server at `url`, asked over `clients` connections; raises as LoadClient and find_model do."""
    async with LoadClient(url, key, connections=clients) as client:
        try:
            info = await find_model(client, model)
        except NoAnswer as err:
            raise NoAnswer(f"{client.url}: {err}") from err
        check_classes(info.classes)
        source = HttpSource(client, PredictionMatcher(categories, info.classes), model, resolution)
        yield PredictionSource(
            source.ask,
            in_flight=2 * clients,  # results are taken in order: the next requests wait for a free connection
            answered_by=lambda: _answered(info, source.answered_by, resolution),
            url=client.url,
        )


def _answered(info: ModelInfo, answered_by: list[AnsweredBy], resolution: int | None) -> list[Answered]:
    """The models that gave answers, or the requested one if there are none.

    GET /models tells variant and source; they hold only for an answer of the same weights.
    """
    requested = Answered(
        name=info.name,
        variant=info.variant,
        weights=info.weights,
        weights_source=info.weights_source,
        engine=info.engine,
        precision=info.precision,
        resolution=resolution or info.default_resolution,
    )
    return [
        replace(
            requested,
            name=each.name,
            variant=info.variant if each.weights == info.weights else None,
            weights=each.weights,
            weights_source=info.weights_source if each.weights == info.weights else None,
            engine=each.engine,
            precision=each.precision,
            resolution=each.resolution,
        )
        for each in answered_by
    ] or [requested]


def _classification(answer: HttpAnswer) -> Classification:
    if answer.status != 200:
        retry_after = (answer.retry_after or _DEFAULT_RETRY_SECONDS) if answer.status in _RETRY_STATUSES else None
        raise NotAnswered(describe_problem(answer), kind=str(answer.status), retry_after=retry_after)
    try:
        classification = Classification.model_validate_json(answer.body)
    except ValidationError as err:
        raise NotAnswered("the answer is not a CrossViT service's", kind="200, not understood") from err
    if not classification.predictions:
        raise NotAnswered("the answer has no predictions", kind="200, not understood")
    return classification


def _label(prediction: Prediction) -> ClassLabel:
    return ClassLabel(index=prediction.index, wnid=prediction.wnid, label=prediction.label)
