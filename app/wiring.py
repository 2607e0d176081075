"""Making what the settings describe, for the service and for the command line."""

from collections.abc import Callable

from app.bundle import Bundle
from app.decoders import Decoders
from app.metrics import ModelMetrics
from app.model import Model
from app.settings import Settings


def make_decoders(settings: Settings, on_restart: Callable[[str], None] = lambda _: None) -> Decoders:
    return Decoders(
        count=settings.decoder_count,
        max_pixels=settings.max_pixels,
        scaled_jpeg=settings.scaled_jpeg,
        seconds=settings.decode_seconds,
        memory_bytes=settings.decode_bytes,
        on_restart=on_restart,
    )


def make_model(settings: Settings, bundle: Bundle, decoders: Decoders, metrics: ModelMetrics) -> Model:
    return Model(
        bundle,
        decoders,
        metrics,
        engine=settings.engine,
        precision=settings.precision,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        run_seconds=settings.engine_seconds,
        load_seconds=settings.load_seconds,
        jpeg_pixels=settings.max_pixels if settings.jpeg == "gpu" else None,
    )
