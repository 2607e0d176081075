"""What the log says once the models are served: how to ask for an answer, and what would be faster."""

import logging
from importlib.util import find_spec

from app.api.dependencies import Service
from app.engines.registry import ON_CPU
from app.serving.repository import RepositoryEntry
from bundle.installation import install_command
from bundle.precisions import INT8

log = logging.getLogger(__name__)


def log_first_steps(service: Service) -> None:
    """Log a command that classifies an image, and the models that --quantize would make faster."""
    if service.url:
        key = ' -H "X-API-Key: YOUR KEY"' if service.access.keys else ""
        page = f"; in a browser: {service.url}/" if service.settings.page else ""
        log.info("try it: curl%s -F file=@PHOTO.jpg %s/classify%s", key, service.url, page)
    slow = [] if service.settings.quantize else [entry.name for entry in service.repository.entries if _slow(entry)]
    if slow and service.settings.precision == "auto":
        install = "" if find_spec("nncf") else f", after {install_command('quantize')}"
        log.info(
            "%s could be about twice as fast in 8 bits: crossvit serve --quantize int8%s", ", ".join(slow), install
        )


def _slow(entry: RepositoryEntry) -> bool:
    """Whether the model runs on a CPU and has no graph in 8 bits."""
    return entry.model is not None and entry.model.engine()[0] in ON_CPU and INT8 not in entry.model.bundle.graphs
