"""What operators and probes ask: GET /models, /livez, /readyz and /metrics, and POST /admin/reload."""

from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import exposition

from app.api.auth import AccessLevel
from app.api.dependencies import SINGLE_PARAMETERS, ServiceDep, require_access
from app.api.problems import ACCESS_ERRORS, error_responses
from app.api.schemas import (
    CascadeInfo,
    CascadeStepInfo,
    Fallback,
    InstanceCount,
    Links,
    ModelInfo,
    ModelList,
    Reloaded,
    ScoresInfo,
    Status,
)
from app.errors import BadParameter, NotReady, UnknownModel
from app.pulling.background_quantization import BackgroundQuantization
from app.serving.cascade import FindModel, is_served
from app.serving.repository import RepositoryEntry
from app.serving.served_model import ServedModel
from bundle.calibration import CascadeFit, ScoreCalibration

router = APIRouter(redirect_slashes=False)


@router.get("/", summary="Where to go on", tags=["Operations"], responses=error_responses(*ACCESS_ERRORS))
async def root(service: ServiceDep) -> Links:
    """What this service is, and the paths to go on with, relative to this one; a browser gets the page instead."""
    return Links(
        service=f"CrossViT image classification {version('crossvit')}",
        classify="classify",
        models="models",
        ready="readyz",
        docs="docs" if service.settings.docs else None,
    )


@router.get(
    "/models",
    summary="The models",
    tags=["Classification"],
    responses=error_responses(*ACCESS_ERRORS),
    dependencies=[require_access(AccessLevel.KEY)],
)
async def models(service: ServiceDep) -> ModelList:
    """What is served, by which engine, with which weights; of several instances, one of them answers for its own."""
    total, ready = await service.group.instances()
    default = service.repository.default
    return ModelList(
        models=[
            _model_info(entry, default, service.quantization, service.repository.model)
            for entry in service.repository.entries
        ],
        instances=InstanceCount(total=total, ready=ready),
    )


@router.post(
    "/admin/reload",
    summary="Read the models on disk again",
    tags=["Operations"],
    responses=error_responses(*ACCESS_ERRORS),
    dependencies=[require_access(AccessLevel.ADMIN)],
)
async def reload(service: ServiceDep) -> Reloaded:
    """Serve what is on disk now, as SIGHUP does: load new and changed bundles, unload those that are gone."""
    return Reloaded(faults=await service.group.reload())


@router.get("/livez", summary="Liveness", tags=["Operations"], responses=error_responses(*ACCESS_ERRORS))
async def livez(request: Request, service: ServiceDep) -> Status:
    """The process answers."""
    await service.authorize(request, AccessLevel[service.settings.health_access.upper()])
    return Status(status="alive")


@router.get(
    "/readyz",
    summary="Readiness",
    tags=["Operations"],
    responses=error_responses(*ACCESS_ERRORS, UnknownModel, NotReady, BadParameter),
    dependencies=[SINGLE_PARAMETERS],
)
async def readyz(
    request: Request,
    service: ServiceDep,
    deep: Annotated[bool, Query(description="send the golden images through the engines first")] = False,
    model: Annotated[str | None, Query(description="the model to ask for; the default if left out")] = None,
) -> Status:
    """The model's engine is loaded and has given the recorded logits, at its start or, with deep=1, just now."""
    probing = AccessLevel[service.settings.health_access.upper()]
    # Work for the engine, and the names of models, are for those who may classify.
    await service.authorize(request, max(probing, AccessLevel.KEY) if deep or model else probing)
    if deep:
        service.origin_policy.check_page(request.headers)
    await service.group.check_ready(model, deep=deep)
    return Status(status="ready")


@router.get(
    "/metrics",
    summary="Metrics",
    tags=["Operations"],
    response_class=Response,
    responses=error_responses(*ACCESS_ERRORS) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, service: ServiceDep) -> Response:
    """What Prometheus scrapes."""
    await service.authorize(request, AccessLevel[service.settings.metrics_access.upper()])
    families: Any = await service.group.metrics()  # prometheus_client says a registry, and only collects
    try:
        encode, content_type = exposition.choose_encoder(request.headers.get("Accept", ""))
        content = encode(families)
    except (ValueError, TypeError):  # the client asks for a version that does not exist
        encode, content_type = exposition.choose_encoder("")
        content = encode(families)
    return Response(content, headers={"Content-Type": content_type})


def _model_info(
    entry: RepositoryEntry, default: str, quantization: BackgroundQuantization | None, find: FindModel
) -> ModelInfo:
    quantizing = quantization is not None and quantization.under_way == entry.name
    info = ModelInfo(
        name=entry.name, default=entry.name == default, state=entry.state, reason=entry.fault, quantizing=quantizing
    )
    if entry.model is None:
        return info
    bundle = entry.model.bundle
    engine, precision = entry.model.engine()
    return info.model_copy(
        update={
            "variant": bundle.manifest.variant,
            "resolutions": bundle.resolutions,
            "default_resolution": bundle.manifest.default_resolution,
            "loaded_resolutions": entry.model.loaded,
            "classes": bundle.manifest.classes,
            "activation": bundle.manifest.activation,
            "mean": list(bundle.manifest.mean),
            "std": list(bundle.manifest.std),
            "engine": engine,
            "precision": precision,
            "agreement": entry.model.agreement,
            "calibrated": entry.model.calibration() is not None,
            "calibrations": [_scores_info(each) for each in entry.model.calibrations.scores.values()],
            "cascades": [_cascade_info(entry.model, each, find) for each in entry.model.calibrations.cascades],
            "fallbacks": [
                Fallback(engine=refused, resolution=resolution, reason=reason)
                for refused, resolution, reason in entry.model.refused
            ],
            "explains": bundle.inspection is not None,
            "weights": bundle.manifest.weights.id,
            "weights_source": bundle.manifest.weights.source,
            "warning": bundle.warning,
            "bundle": bundle.hash,
        }
    )


def _scores_info(fitted: ScoreCalibration) -> ScoresInfo:
    coverages = [each.coverage for each in fitted.sets.thresholds] if fitted.sets else []
    return ScoresInfo(
        precision=fitted.precision,
        resolution=fitted.resolution,
        temperature=fitted.temperature,
        images=fitted.images,
        data=list(fitted.data),
        top1=fitted.top1,
        ece_before=fitted.ece_before,
        ece_after=fitted.ece_after,
        coverages=[coverages[0], coverages[-1]] if coverages else [],
    )


def _cascade_info(model: ServedModel, fit: CascadeFit, find: FindModel) -> CascadeInfo:
    return CascadeInfo(
        steps=[
            CascadeStepInfo(
                model=step.model or model.bundle.name,
                resolution=step.resolution,
                precision=step.precision,
                accuracy=step.accuracy,
            )
            for step in (fit.first, fit.second)
        ],
        threshold=fit.threshold,
        goal=fit.goal,
        images=fit.images,
        accuracy=fit.accuracy,
        answered_by_first=fit.answered_by_first,
        served=is_served(model, fit, find),
    )
