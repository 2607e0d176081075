"""The ASGI application, assembled from its parts. `crossvit serve` runs it, and any ASGI server can."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.api import (
    classify_routes,
    dialect_routes,
    inspection_routes,
    oip_routes,
    openai_routes,
    operations_routes,
)
from app.api.auth import AccessControl, Keys
from app.api.dependencies import Service
from app.api.direct_routes import DirectRoutes
from app.api.entry_middleware import EntryMiddleware
from app.api.first_steps import log_first_steps
from app.api.instance_group import LocalInstance
from app.api.observability_middleware import PROBE_PATHS, REQUEST_ID_HEADER, ObservabilityMiddleware
from app.api.openapi import correct_openapi, serve_docs
from app.api.origin_policy import OriginPolicy
from app.api.problems import add_error_handlers, error_response
from app.api.rate_limit import RateLimit
from app.api.request_body import BodyLimits
from app.configuration.settings import Settings, log_remarks
from app.decoding.oip_tensors import LENGTH_HEADER
from app.errors import LoadFailed, NotReady
from app.page.page_routes import serve_page
from app.pulling.background_quantization import BackgroundQuantization
from app.serving.answer_sample import AnswerSample
from app.serving.answer_taps import AnswerTap, RequestSample
from app.serving.assembly import make_decoders, make_model
from app.serving.brown_out import BrownOut
from app.serving.canary import CANARY_HEADER, REVISION_HEADER, make_canary
from app.serving.repository import Repository, RepositoryEntry
from app.serving.served_model import ServedModel
from app.serving.shadowing import make_shadow
from app.telemetry.answer_log import AnswerLog
from app.telemetry.drift import DriftMetrics
from app.telemetry.metrics import Metrics, ModelState
from app.telemetry.tracing import Tracing
from bundle.reader import Bundle

if TYPE_CHECKING:
    from app.grpc_api.grpc_port import GrpcPort

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, on_failure: Callable[[], None] | None = None) -> FastAPI:
    """The application for `settings`, by default those of the environment.

    Raises BadBundle or BadParameter at once. Engines load later, while /livez already answers. If the default model
    cannot be loaded, `on_failure` is called and the service stays unready.
    """
    settings = settings or Settings()
    service = _service(settings)
    tracing = Tracing(settings.otlp_endpoint) if settings.otlp_endpoint else None
    grpc_port = _grpc_port(service, tracing) if settings.grpc_port is not None else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.decoders:
            working = asyncio.create_task(_work(service, on_failure))
            service.access.watch()
            if service.answer_log is not None:
                service.answer_log.start()
            yield
            service.access.close()
            service.stopping = True
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            if grpc_port is not None:
                await grpc_port.close()
            await service.repository.close()
        if service.answer_log is not None:
            await asyncio.to_thread(service.answer_log.close)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        redoc_url=None,
        docs_url=None,
        redirect_slashes=False,
        openapi_url=None,  # serve_docs adds it
        title="CrossViT",
        version=version("crossvit"),
        description="Image classification with CrossViT.",
        servers=[{"url": "."}],  # relative to the document, below any path of a proxy
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.grpc_port = grpc_port
    if settings.page:
        serve_page(app)  # before the route of / that answers with JSON
    for routes in (classify_routes, inspection_routes, openai_routes, operations_routes, oip_routes, dialect_routes):
        app.include_router(routes.router)
    if settings.docs:
        serve_docs(app)
    app.add_middleware(DirectRoutes, routes=[*classify_routes.DIRECT_ROUTES, *oip_routes.DIRECT_ROUTES])
    app.add_middleware(
        EntryMiddleware,
        prefix=settings.root_path or "",
        origin_policy=service.origin_policy,
        open_paths=PROBE_PATHS,
        error_response=error_response,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=[
                "Authorization",
                "Content-Encoding",
                "Content-Type",
                "X-API-Key",
                CANARY_HEADER,
                REQUEST_ID_HEADER,
                LENGTH_HEADER,
                "X-Request-Timeout-Ms",
            ],
            expose_headers=[
                REQUEST_ID_HEADER,
                LENGTH_HEADER,
                "Retry-After",
                classify_routes.BROWN_OUT_HEADER,
                REVISION_HEADER,
            ],
        )
    app.add_middleware(
        ObservabilityMiddleware,
        metrics=service.metrics,
        tracing=tracing,
        names_requests=service.answer_log is not None,
    )
    add_error_handlers(app)
    correct_openapi(app, keys=bool(service.access.keys))
    return app


def _service(settings: Settings) -> Service:
    log_remarks()
    keys = Keys([key.get_secret_value() for key in settings.api_keys], settings.api_keys_file)
    admin_keys = Keys([key.get_secret_value() for key in settings.admin_keys], settings.admin_keys_file)
    if not keys:
        log.info("no API keys are set: every client that reaches the port may classify")
    metrics = Metrics(lambda: _states(repository.entries if canary is None else [*repository.entries, canary.entry]))
    decoders = make_decoders(settings, lambda reason: metrics.decoder_restarts.labels(reason).inc())
    metrics.show_decoders(settings.decoder_count)

    answer_log = AnswerLog(settings.answer_log, settings.answer_log_seconds, metrics) if settings.answer_log else None
    drift: list[AnswerTap] = []
    if settings.drift_percent:
        drift = [AnswerSample(RequestSample(settings.drift_percent), DriftMetrics(metrics), answer_log)]
    shadow: list[AnswerTap] = []

    def make(bundle: Bundle) -> ServedModel:
        model = make_model(settings, bundle, decoders, metrics.model(bundle.name))
        model.taps = (*drift, *(shadow if bundle.name != settings.shadow else ()))
        return model

    repository = Repository(settings.bundles, settings.default_model, make, settings.preload, settings.model_name)
    if settings.shadow:
        shadow.append(make_shadow(settings.shadow, settings.shadow_percent, repository, metrics))
    canary = None
    if settings.canary:
        canary = make_canary(settings.canary, settings.canary_percent, repository, make, metrics)
    limit = RateLimit(settings.rate_limit) if settings.rate_limit else None

    async def take(name: str, images: int, paid: int) -> None:
        await service.group.take(name, images, paid)

    access = AccessControl(keys, admin_keys, settings.admin_port, take if limit else None)
    metrics.show_key_files({kind: partial(getattr, file, "ok") for kind, file in access.key_files.items()})
    brown_out = BrownOut(settings.brown_out) if settings.brown_out else None
    if brown_out is not None:
        metrics.show_brown_out(lambda: brown_out.rungs)
    service = Service(
        settings=settings,
        repository=repository,
        decoders=decoders,
        metrics=metrics,
        access=access,
        origin_policy=OriginPolicy(settings.cors_origins, settings.allowed_hosts, settings.admin_host),
        body_limits=BodyLimits(settings.max_body_bytes, settings.max_bodies_bytes, settings.body_seconds),
        group=LocalInstance(repository, metrics, limit, stopping=lambda: service.stopping),
        canary=canary,
        answer_log=answer_log,
        brown_out=brown_out,
        quantization=BackgroundQuantization(lambda: service.group.reload()) if settings.quantize else None,
    )
    return service


def _grpc_port(service: Service, tracing: Tracing | None) -> "GrpcPort":
    """The gRPC port, which the server opens."""
    from app.grpc_api.grpc_port import GrpcPort  # only now: it takes a tenth of a second, and may not be installed

    return GrpcPort(service, tracing)


async def _work(service: Service, on_failure: Callable[[], None] | None) -> None:
    """What the service does by itself: it loads the models, says how to ask it, and makes graphs in 8 bits."""
    await _load(service, on_failure)
    if service.loaded.is_set():
        log_first_steps(service)
        if service.quantization is not None:
            await service.quantization.run(list(service.repository.bundles))


async def _load(service: Service, on_failure: Callable[[], None] | None) -> None:
    decoders = asyncio.create_task(service.decoders.start())  # while the engines load: the start takes less time
    try:
        await service.repository.load_all()
        await decoders
        service.loaded.set()
    except (LoadFailed, NotReady) as err:
        log.error("%s", err)
        if on_failure:
            on_failure()
    finally:
        decoders.cancel()
        await asyncio.gather(decoders, return_exceptions=True)


def _states(entries: Iterable[RepositoryEntry]) -> Iterator[ModelState]:
    for entry in entries:
        info = {}
        if entry.model is not None:
            manifest = entry.model.bundle.manifest
            engine, precision = entry.model.engine()
            info = {
                "variant": manifest.variant,
                "engine": engine,
                "precision": precision,
                "weights": manifest.weights.id,
                "bundle": entry.model.bundle.hash,
            }
        queue = entry.model.waiting if entry.model is not None else 0
        inspections = entry.model.inspections_waiting if entry.model is not None else 0
        refused = {name for name, _, _ in entry.model.refused} if entry.model is not None else set()
        yield ModelState(entry.name, entry.state == "READY", queue, info, refused, inspections)
