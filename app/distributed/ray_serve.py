"""The service as an application of Ray Serve: `serve run app.distributed.ray_serve:application bundle=PATH replicas=2`.

Each replica runs the service's own application, with its decoders and engine, within the CPUs that Ray counts for it.
Ray routes, scales and replaces replicas; everything else is the service's: queue, refusals, deadlines, keys.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Self

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve

from app.api.dependencies import Service
from app.configuration.settings import Settings
from app.distributed.worker_share import take_share
from app.errors import BadParameter, LoadFailed
from app.main import create_app
from app.telemetry import logs
from bundle.discovery import bundle_at
from bundle.pulled_bundles import bundle_named
from bundle.reader import open_bundle

_LOOK_SECONDS = 0.5  # between looks at whether a replica that ends has answered its last request
_HEALTH_SECONDS = 10.0
_INGRESS_SETTINGS = {  # are Ray's, or arguments of `application`
    *("host", "port", "admin_port", "grpc_port", "instances", "root_path", "bundle", "sources"),
}


class ServeArguments(BaseModel):
    """The arguments of `application`.

    Attributes:
        bundle: its folder, the same on all machines, or the name of one that was pulled.
        replicas: how many.
        cpus: of each replica; its engine has so many threads.
        gpus: of each replica.
        surge_percent: replicas beyond these during an update, as a share of them, rounded up: they start before the old
            ones end, and a new bundle that does not start ends none. 0 where the cluster has no room for them.
        autoscaling: Ray's autoscaling_config, instead of `replicas`.
        settings: options of `crossvit serve` by their names, such as {"max_queue": 128}.
    """

    model_config = ConfigDict(extra="forbid")

    bundle: str
    replicas: Annotated[int, Field(ge=1)] = 1
    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0
    surge_percent: Annotated[int, Field(ge=0, le=100)] = 25
    autoscaling: dict[str, Any] | None = None
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.autoscaling is not None and "replicas" in self.model_fields_set:
            raise ValueError("give replicas or autoscaling, not both")
        return self

    def service_settings(self) -> Settings:
        """The settings of each replica. Raises BadParameter, and ValidationError as Settings does."""
        if taken := sorted(_INGRESS_SETTINGS & self.settings.keys()):
            raise BadParameter(f"{taken[0]} is not for a replica: Ray listens, and has the replicas")
        settings = Settings(bundle=bundle_named(Path(self.bundle)), **self.settings)
        return settings.model_copy(update={"sources": [], "bundle": bundle_at([settings.bundle], None).absolute()})


def application(args: ServeArguments) -> serve.Application:
    """The application. Raises BadBundle before anything is deployed, so that a broken bundle replaces nothing."""
    settings = args.service_settings()
    bundle = open_bundle(settings.bundle)
    bundle.close()
    # More than the service's own queue holds: so the service refuses, with 429, and nothing waits in Ray.
    ongoing = settings.max_connections
    stopping = math.ceil(settings.grace_seconds + settings.drain_seconds)
    scale: dict[str, Any] = {"num_replicas": args.replicas}
    if args.autoscaling is not None:
        scale = {"autoscaling_config": args.autoscaling}
    deployment: Any = serve.deployment(
        name="crossvit",
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
        max_ongoing_requests=ongoing,
        graceful_shutdown_timeout_s=stopping,
        graceful_shutdown_wait_loop_s=_LOOK_SECONDS,
        health_check_period_s=_HEALTH_SECONDS,
        health_check_timeout_s=max(_HEALTH_SECONDS, settings.engine_seconds),
        max_surge_percent=args.surge_percent,
        **scale,
    )
    replica = deployment(serve.ingress()(ServiceReplica))
    bound: serve.Application = replica.bind(settings, bundle.hash, args.cpus, args.gpus)
    return bound


class ServiceReplica:
    """A replica: Ray finds it ready once its model has given the golden logits, and unhealthy when it does not again.

    Args:
        settings: of the service.
        bundle_hash: of the bundle that was deployed.
        cpus: that Ray counts for the replica.
        gpus: likewise.
    """

    def __init__(self, settings: Settings, bundle_hash: str, cpus: float, gpus: float) -> None:
        take_share(cpus, gpus)
        logs.configure(settings.log_level, settings.log_format)
        self._settings = settings
        self._bundle_hash = bundle_hash

    def __serve_build_asgi_app__(self) -> FastAPI:
        failed = asyncio.Event()
        app = create_app(self._settings, on_failure=failed.set)
        self._service: Service = app.state.service
        begin = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with begin(app):
                await self._until_loaded(failed)
                yield

        app.router.lifespan_context = lifespan  # Ray sends no requests before it has begun
        return app

    async def check_health(self) -> None:
        """Send the golden images through the engine. Raises NotReady or WrongAnswers."""
        await self._service.group.check_ready(deep=True)

    async def _until_loaded(self, failed: asyncio.Event) -> None:
        """Wait until the model is loaded. LoadFailed if it `failed`, or is another one than was deployed."""
        ends = [asyncio.create_task(event.wait()) for event in (self._service.loaded, failed)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if failed.is_set():
            raise LoadFailed("the model cannot be loaded: see the log of the replica")
        if self._service.repository.model(None).bundle.hash != self._bundle_hash:
            raise LoadFailed(
                f"{self._settings.bundle} is another bundle on this machine than the one that was deployed"
            )
