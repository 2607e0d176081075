"""Makes the decoders and models that the settings describe, for the service and for the command line."""

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from app.configuration.settings import Settings
from app.decoding.pool import DecoderPool
from app.engines.engine_process.supervisor import EngineSupervisor
from app.engines.gpu_jpeg.jpeg_pool import GpuJpegPool
from app.engines.registry import NULL_ENGINE
from app.inspection.inspector import Inspector
from app.machine.cpus import usable_cpus
from app.machine.memory import decoder_bytes, megabytes, needed_bytes, usable_memory
from app.serving.served_model import ServedModel
from app.telemetry.metrics import ModelMetrics
from bundle.reader import Bundle

log = logging.getLogger(__name__)

_LEAST_SHARED_BYTES = 256 << 20


def make_decoders(settings: Settings, on_restart: Callable[[str], None] = lambda _: None) -> DecoderPool:
    """The decoders, with the GPU among them for --jpeg gpu; `on_restart` is told why one was replaced."""
    _compare_with_memory(settings)
    if settings.jpeg == "gpu":
        return GpuJpegPool(
            count=settings.decoder_count,
            max_pixels=settings.max_pixels,
            scaled_jpeg=settings.scaled_jpeg,
            seconds=settings.decode_seconds,
            memory_bytes=settings.decode_bytes,
            shared_bytes=_shared_bytes(settings),
            load_seconds=settings.load_seconds,
            on_restart=on_restart,
        )
    return DecoderPool(
        count=settings.decoder_count,
        max_pixels=settings.max_pixels,
        scaled_jpeg=settings.scaled_jpeg,
        seconds=settings.decode_seconds,
        memory_bytes=settings.decode_bytes,
        shared_bytes=_shared_bytes(settings),
        on_restart=on_restart,
    )


def make_model(settings: Settings, bundle: Bundle, decoders: DecoderPool, metrics: ModelMetrics) -> ServedModel:
    memory, needed = usable_memory(), needed_bytes(os.fstat(bundle.graphs["f32"]).st_size, settings.decoder_count)
    if memory is not None and needed > memory:
        log.warning(
            "%s needs about %s with %d decoders, and has %s: the kernel may end its processes; give it more memory%s",
            bundle.name,
            megabytes(needed),
            settings.decoder_count,
            megabytes(memory),
            "" if settings.decoder_count == 1 else ", or set fewer --decoders",
        )
    if settings.engine == NULL_ENGINE:
        log.warning("%s: --engine null computes nothing: every answer is zeros, for measuring only", bundle.name)
    return ServedModel(
        bundle,
        decoders,
        metrics,
        make_engine=partial(make_engine, settings),
        make_inspector=partial(make_inspector, settings),
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        max_queue_bytes=settings.max_queue_bytes,
        max_queue_seconds=settings.max_queue_seconds,
    )


def make_engine(settings: Settings, bundle: Bundle, resolution: int, **more: Any) -> EngineSupervisor:
    """The engine of `bundle` for `resolution`; `more` is for one that has decoders and metrics."""
    return EngineSupervisor(
        bundle,
        resolution,
        engine=settings.engine,
        precision=settings.precision,
        least_agreement=settings.least_agreement,
        null_rate=settings.null_rate,
        background=bundle.name == settings.shadow,
        run_seconds=settings.engine_seconds,
        load_seconds=settings.load_seconds,
        **more,
    )


def make_inspector(settings: Settings, bundle: Bundle, memories: Sequence[int], **more: Any) -> Inspector:
    """What explains and embeds with `bundle`; `more` is for one that has metrics."""
    return Inspector(bundle, memories, run_seconds=settings.engine_seconds, load_seconds=settings.load_seconds, **more)


def _shared_bytes(settings: Settings) -> int:
    """The size of a decoder's shared memory: a body and its tensors fit, beside images that wait for an engine."""
    return max(_LEAST_SHARED_BYTES, 4 * settings.max_body_bytes)


def _compare_with_memory(settings: Settings) -> None:
    """Log where memory and the number of decoders do not fit."""
    affordable, memory = settings.affordable_decoders, usable_memory()
    if affordable is None or memory is None:
        return
    each = decoder_bytes(settings.max_pixels, settings.decode_bytes)
    if settings.decoders > affordable:
        log.warning(
            "%d decoders were requested: with the largest images they take up to %s, of %s that there are. "
            "%d would fit in half of that; so would smaller images (--max-pixels) or a lower --decode-bytes",
            settings.decoders,
            megabytes(settings.decoders * each),
            megabytes(memory),
            affordable,
        )
    elif not settings.decoders and affordable < usable_cpus():
        log.info(
            "%d decoders for %d usable CPUs: each takes up to %s, and half of the memory is theirs, which is %s in all",
            affordable,
            usable_cpus(),
            megabytes(each),
            megabytes(memory),
        )
