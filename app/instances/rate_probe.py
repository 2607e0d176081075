"""Measures an engine on a share of the machine, together with other processes that do the same.

Run as `python -m app.instances.rate_probe CPUS [OPTION ...]`. CPUS is JSON, the CPUs to run on, none for all; the
options are those of `crossvit serve`. It prints a line of JSON when the engine is loaded, waits for a line, and prints
the images per second that the engine gave from then on.
"""

import asyncio
import json
import os
import sys
import time
from contextlib import closing

import numpy as np

from app.configuration.settings import Settings
from app.engines.engine_process.supervisor import EngineSupervisor
from app.serving.assembly import make_engine
from bundle.discovery import bundle_at
from bundle.reader import Bundle, open_bundle

_MEASURED_SECONDS = 2.0


def main() -> None:
    """Load, wait, measure."""
    if cpus := json.loads(sys.argv[1]):
        os.sched_setaffinity(0, cpus)
    settings = Settings.from_command_line(sys.argv[2:])
    with closing(open_bundle(bundle_at(settings.bundles, settings.default_model))) as bundle:
        asyncio.run(_probe(settings, bundle))


async def _probe(settings: Settings, bundle: Bundle) -> None:
    engine = make_engine(settings, bundle, bundle.manifest.default_resolution)
    try:
        await engine.start()
        print(json.dumps({"engine": engine.name, "precision": engine.precision}), flush=True)
        if await asyncio.to_thread(sys.stdin.readline):  # else the one who measures has ended
            print(await _rate(engine, bundle, settings.max_batch or engine.batch), flush=True)
    finally:
        await engine.close()


async def _rate(engine: EngineSupervisor, bundle: Bundle, batch: int) -> float:
    """Images per second in batches of `batch`."""
    side = bundle.golden(bundle.manifest.default_resolution).images.shape[1]
    images = np.zeros((batch, side, side, 3), np.uint8)
    await engine.run(images)  # allocates
    began, runs = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < _MEASURED_SECONDS:
        await engine.run(images)
        runs += 1
    return runs * batch / taken


if __name__ == "__main__":
    main()
