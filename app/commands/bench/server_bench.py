"""Measures a running server, one load after the other."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlencode

from pydantic import ValidationError

from app.api.schemas import Classification, ModelInfo, ModelList
from app.commands.bench.http_client import HttpAnswer, HttpRequest, LoadClient, NoAnswer
from app.commands.bench.load_generator import Load, LoadRun, drive
from app.commands.bench.load_summary import LoadSummary, describe_problem, summarize, timing
from app.errors import BadParameter

_TEMPORARY_STATUSES = {429, 503, 504}  # of a server that is busy, or not ready yet


@dataclass
class ServerReport:
    """The figures of a server. `engine` and `precision` are those of the resolution that answered."""

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
    """Put each of `loads` on the server for `warmup` and `seconds`; if cancelled, the report has the figures so far.

    Raises NoAnswer if the server cannot be reached, is not a CrossViT service or takes none of the images; the message
    says why.
    """
    info = await find_model(client, model)
    query = {name: value for name, value in (("model", model), ("resolution", resolution)) if value is not None}
    path = f"/classify?{urlencode(query)}"
    requests = [client.post(path, image) for image in images]
    report = _empty_report(client.url, info, resolution, await _first_answer(client, requests), len(images))
    next_request = cycle(requests)
    try:
        for load in loads:
            on_load(load)
            start = time.perf_counter() + warmup
            run = LoadRun(load, start, start + seconds)
            try:
                await drive(run, lambda: client.ask(next(next_request)))
            finally:
                summary = summarize(run)
                if summary is not None:
                    report.rows.append(summary)
    except asyncio.CancelledError:  # Ctrl-C
        report.interrupted = True
    return report


async def find_model(client: LoadClient, name: str | None) -> ModelInfo:
    """The model `name` of a server, or its default model. NoAnswer or BadParameter if the server does not have it."""
    answer = await client.ask(client.get("/models"))
    if answer.status != 200:
        raise NoAnswer(describe_problem(answer))
    try:
        models = ModelList.model_validate_json(answer.body).models
    except ValidationError as err:
        raise NoAnswer("GET /models is not answered as a CrossViT service does") from err
    for model in models:
        if model.default if name is None else model.name == name:
            return model
    if name is None:
        raise NoAnswer("it has no default model; give --model")
    raise BadParameter(f"unknown model {name!r}; one of {', '.join(model.name for model in models)}")


async def _first_answer(client: LoadClient, requests: Sequence[HttpRequest]) -> HttpAnswer:
    """The first answer that does not refuse its image; the request also loads a resolution that is not loaded yet."""
    for request in requests:
        answer = await client.ask(request)
        if answer.status == 200:
            timing(answer)
        if answer.status == 200 or answer.status in _TEMPORARY_STATUSES:
            return answer
    raise NoAnswer(describe_problem(answer))


def _empty_report(url: str, info: ModelInfo, resolution: int | None, first: HttpAnswer, images: int) -> ServerReport:
    """A report without rows. What answers is known from the `first` answer, else from GET /models."""
    answered_by = Classification.model_validate_json(first.body).model if first.status == 200 else None
    model = answered_by or info
    return ServerReport(
        url=url,
        model=model.name,
        resolution=answered_by.resolution if answered_by else resolution or info.default_resolution,
        engine=model.engine,
        precision=model.precision,
        weights=model.weights,
        fallbacks=[f"{each.engine} at {each.resolution}: {each.reason}" for each in info.fallbacks],
        images=images,
    )
