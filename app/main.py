"""The application: a bundle behind the HTTP interface. `crossvit serve` runs it; so does any ASGI server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.bundle import Bundle, open_bundle
from app.engines.choice import choose
from app.errors import BadParameter
from app.model import Model
from app.problems import handle_problems
from app.request_id import RequestId
from app.routes import router
from app.settings import Settings
from app.state import Serving

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, on_failure: Callable[[], None] | None = None) -> FastAPI:
    """The service of the bundle in `settings` (by default those of the environment).

    Raises BadBundle at once; the engine loads while /livez answers already. If that fails `on_failure` is called,
    and the service stays unready.
    """
    settings = settings or Settings()
    bundle = open_bundle(settings.bundle)
    _check_preload(bundle, settings.preload)
    if bundle.warning:
        log.warning("\n%s\n%s\n%s", 80 * "!", bundle.warning, 80 * "!")
    serving = Serving(bundle.name)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = asyncio.Event()
        runner = asyncio.create_task(_serve(bundle, settings, serving, stop, on_failure))
        yield
        stop.set()
        await runner

    app = FastAPIOffline(  # /docs without a CDN
        redoc_url=None,
        title="CrossViT",
        version=version("crossvit"),
        description=f"Image classification with {bundle.name}, weights {bundle.manifest.weights.id}.",
        lifespan=lifespan,
    )
    app.state.serving = serving
    app.state.settings = settings
    app.include_router(router)
    app.add_middleware(RequestId)
    handle_problems(app)
    return app


async def _serve(
    bundle: Bundle, settings: Settings, serving: Serving, stop: asyncio.Event, on_failure: Callable[[], None] | None
) -> None:
    """Load the model, have it served until `stop`, then finish what it was given."""
    default = bundle.manifest.default_resolution
    try:
        side = bundle.manifest.preprocessing[default].crop
        engine = await asyncio.to_thread(choose, bundle.graph, side, settings.engine, settings.precision)
        async with Model(bundle, engine, max_batch=settings.max_batch, max_pixels=settings.max_pixels) as model:
            for resolution in {default, *settings.preload}:
                await model.load(resolution)
            if stop.is_set():
                return
            serving.models[bundle.name] = model
            log.info("%s is ready: %s, %s", bundle.name, engine.name, engine.precision)
            await stop.wait()
    except Exception:
        log.exception("%s cannot be served", bundle.name)
        serving.failed = True
        if on_failure:
            on_failure()


def _check_preload(bundle: Bundle, preload: list[int]) -> None:
    for resolution in preload:
        if resolution not in bundle.resolutions:
            offered = ", ".join(map(str, bundle.resolutions))
            raise BadParameter(f"cannot preload {resolution}: the bundle at {bundle.path} has {offered}")
