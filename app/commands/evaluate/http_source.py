"""Asking a running server with POST /classify, one image a request.

The server names its five best classes, not all that it has: which of them is right is found by what the answer itself
says of each (app.commands.evaluate.class_mapping.PredictionMatcher). So a class of the data that the model lacks counts as never found, and
logits, branches and the likelihood are not known.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlencode

from pydantic import ValidationError

from app.api.schemas import AnsweredBy, Classification, ModelInfo, Prediction
from app.commands.bench.http_client import HttpAnswer, LoadClient, NoAnswer
from app.commands.bench.load_summary import problem
from app.commands.bench.server_bench import served
from app.commands.evaluate.accuracy import TOP, ImagePrediction
from app.commands.evaluate.class_mapping import PredictionMatcher, check_classes
from app.commands.evaluate.evaluation import Answered, NotAnswered, PredictionSource
from bundle.class_labels import ClassLabel

_AGAIN = {429, 503}  # worth another try: the queue is full, or the engine is being started
_PAUSE = 1  # seconds before it, where the server does not say


class HttpSource:
    """Asks the server of `client`; `answered_by` are all that gave an answer, in the order of their first."""

    def __init__(
        self, client: LoadClient, truths: PredictionMatcher, model: str | None = None, resolution: int | None = None
    ) -> None:
        asked = {"top_k": TOP, "model": model, "resolution": resolution}
        self._path = f"/classify?{urlencode({name: value for name, value in asked.items() if value is not None})}"
        self._client = client
        self._truths = truths
        self.answered_by: list[AnsweredBy] = []

    async def ask(self, category: str, body: bytes) -> ImagePrediction:
        """What is seen of the encoded image in `body`; NotAnswered for any other answer than 200."""
        try:
            answer = await self._client.ask(self._client.post(self._path, body))
        except NoAnswer as err:
            raise NotAnswered(str(err), kind=str(err)) from err
        said = _classification(answer)
        if said.model not in self.answered_by:
            self.answered_by.append(said.model)
        rank = self._truths.rank(category, said.predictions)
        best = said.predictions[0]
        return ImagePrediction(
            _label(best), best.score, (rank,), truth=None if rank is None else _label(said.predictions[rank - 1])
        )


@asynccontextmanager
async def http_source(
    categories: Collection[str], url: str, key: str | None, clients: int, model: str | None, resolution: int | None
) -> AsyncIterator[PredictionSource]:
    """The server at `url`, asked by so many `clients` at a time; raises as Client and served do."""
    async with LoadClient(url, key, connections=clients) as client:
        try:
            found = await served(client, model)
        except NoAnswer as err:
            raise NoAnswer(f"{client.url}: {err}") from err
        check_classes(found.classes)
        over_http = HttpSource(client, PredictionMatcher(categories, found.classes), model, resolution)
        yield PredictionSource(
            over_http.ask,
            in_flight=2 * clients,  # results are taken in order: the next ones wait at hand for a free connection
            answered_by=lambda: _answered(found, over_http.answered_by, resolution),
            url=client.url,
        )


def _answered(found: ModelInfo, by: list[AnsweredBy], resolution: int | None) -> list[Answered]:
    """Who gave answers, or was to if there are none. What the model list says is true of its own weights alone."""
    asked = resolution or found.default_resolution
    model = Answered(
        found.name, found.variant, found.weights, found.weights_source, found.engine, found.precision, asked
    )
    others = [
        Answered(each.name, None, each.weights, None, each.engine, each.precision, each.resolution) for each in by
    ]
    return [
        replace(each, variant=model.variant, weights_source=model.weights_source)
        if each.weights == model.weights
        else each
        for each in others
    ] or [model]


def _classification(answer: HttpAnswer) -> Classification:
    if answer.status != 200:
        again = (answer.retry_after or _PAUSE) if answer.status in _AGAIN else None
        raise NotAnswered(problem(answer), kind=str(answer.status), retry_after=again)
    try:
        said = Classification.model_validate_json(answer.body)
    except ValidationError as err:
        raise NotAnswered("the answer is not a CrossViT service's", kind="200, not understood") from err
    if not said.predictions:
        raise NotAnswered("the answer has no predictions", kind="200, not understood")
    return said


def _label(prediction: Prediction) -> ClassLabel:
    return ClassLabel(index=prediction.index, wnid=prediction.wnid, label=prediction.label)
