"""Measuring a running server, one load after the other."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlencode

from pydantic import ValidationError

from app.api.schemas import Classification, ModelInfo, ModelList
from app.commands.bench.http_client import HttpAnswer, LoadClient, NoAnswer
from app.commands.bench.load_generator import Load, LoadRun, drive
from app.commands.bench.load_summary import LoadSummary, problem, summarize, timing
from app.errors import BadParameter

_PASSING = {429, 503, 504}  # what a server that has much to do, or is about to be ready, may answer


@dataclass
class ServerReport:
    """What was measured of a server. `engine` and `precision` are those of the resolution that answered."""

    url: str
    model: str
    resolution: int | None
    engine: str | None
    precision: str | None
    weights: str | None
    fallbacks: list[str]
    images: int
    rows: list[LoadSummary] = field(default_factory=list)
    interrupted: bool = False


async def measure_server(
    client: LoadClient,
    images: Sequence[bytes],
    loads: Sequence[Load],
    *,
    seconds: float,
    warmup: float,
    model: str | None = None,
    resolution: int | None = None,
    on_load: Callable[[Load], None] = lambda _: None,
) -> ServerReport:
    """Put each of `loads` on the server for `warmup` and `seconds`; a cancellation ends it with what there is.

    Raises NoAnswer if it cannot be reached, is no CrossViT service or takes none of the images; the message says why.
    """
    described = await served(client, model)
    asked = {name: value for name, value in (("model", model), ("resolution", resolution)) if value is not None}
    path = f"/classify?{urlencode(asked)}"
    requests = [client.post(path, image) for image in images]
    report = _described(client.url, described, resolution, await _first(client, requests), len(images))
    following = cycle(requests)
    try:
        for load in loads:
            on_load(load)
            start = time.perf_counter() + warmup
            run = LoadRun(load, start, start + seconds)
            try:
                await drive(run, lambda: client.ask(next(following)))
            finally:
                report.rows += [row for row in [summarize(run)] if row]
    except asyncio.CancelledError:  # Ctrl-C
        report.interrupted = True
    return report


async def served(client: LoadClient, name: str | None) -> ModelInfo:
    """The model `name` of a server, or its default one; NoAnswer or BadParameter if there is none."""
    answer = await client.ask(client.get("/models"))
    if answer.status != 200:
        raise NoAnswer(problem(answer))
    try:
        models = ModelList.model_validate_json(answer.body).models
    except ValidationError as err:
        raise NoAnswer("GET /models is not answered as a CrossViT service does") from err
    for model in models:
        if model.default if name is None else model.name == name:
            return model
    if name is None:
        raise NoAnswer("it serves no default model; name one")
    raise BadParameter(f"unknown model {name!r}; one of {', '.join(model.name for model in models)}")


async def _first(client: LoadClient, requests: Sequence[bytes]) -> HttpAnswer:
    """The first answer that is none to a bad request; it also loads a resolution that is not loaded yet."""
    for request in requests:
        answer = await client.ask(request)
        if answer.status == 200:
            timing(answer)
        if answer.status == 200 or answer.status in _PASSING:
            return answer
    raise NoAnswer(problem(answer))


def _described(url: str, served: ModelInfo, resolution: int | None, first: HttpAnswer, images: int) -> ServerReport:
    fallbacks = [f"{passed.engine} at {passed.resolution}: {passed.reason}" for passed in served.fallbacks]
    if first.status != 200:
        resolution = resolution or served.default_resolution
        return ServerReport(
            url, served.name, resolution, served.engine, served.precision, served.weights, fallbacks, images
        )
    by = Classification.model_validate_json(first.body).model
    return ServerReport(url, by.name, by.resolution, by.engine, by.precision, by.weights, fallbacks, images)
