"""Measures an engine on a share of the machine, together with other processes that do the same.

Run as `python -m app.instances.rate_probe CPUS [OPTION ...]`. CPUS is JSON, the CPUs to run on, none for all; the
options are those of `crossvit serve`. It prints a line of JSON when the engine is loaded, waits for a line, and prints
the images per second that the engine gave from then on.
"""

import json
import os
import sys
import time
from contextlib import closing

import numpy as np

from app.configuration.settings import Settings
from app.engines.engine_process.launch import EngineProcess
from app.engines.engine_process.selection import EngineRequest, EngineSearch
from app.processes.shared_buffer import SharedBuffer
from bundle.discovery import bundle_at
from bundle.reader import Bundle, open_bundle

_MEASURED_SECONDS = 2.0


def main() -> None:
    """Load, wait, measure."""
    if cpus := json.loads(sys.argv[1]):
        os.sched_setaffinity(0, cpus)
    settings = Settings.from_command_line(sys.argv[2:])
    bundle = open_bundle(bundle_at(settings.bundle, settings.default_model))
    with closing(bundle), closing(SharedBuffer()) as buffer:
        search = _search(settings, bundle, buffer)
        engine = search.find()
        try:
            print(json.dumps({"engine": engine.name, "precision": engine.precision}), flush=True)
            if sys.stdin.readline():  # else the one who measures has ended
                print(_rate(settings, bundle, engine), flush=True)
        finally:
            search.stop()


def _search(settings: Settings, bundle: Bundle, buffer: SharedBuffer) -> EngineSearch:
    request = EngineRequest(settings.engine, settings.precision, least_agreement=settings.least_agreement)
    resolution = bundle.manifest.default_resolution
    return EngineSearch(bundle, resolution, request, buffer, seconds=settings.load_seconds)


def _rate(settings: Settings, bundle: Bundle, engine: EngineProcess) -> float:
    """Images per second in the engine's best batch."""
    side = bundle.golden(bundle.manifest.default_resolution).images.shape[1]
    images = np.zeros((settings.max_batch or engine.batch, side, side, 3), np.uint8)
    engine.run(images, settings.engine_seconds)  # allocates
    began, runs = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < _MEASURED_SECONDS:
        engine.run(images, settings.engine_seconds)
        runs += 1
    return runs * len(images) / taken


if __name__ == "__main__":
    main()
