"""Graphs in 8 bits for models that are served already: made beside the service, and served once they are there."""

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from app.pulling.pull_command import pull_command_line
from app.pulling.pull_options import without_option
from bundle.cached_source import cached_source
from bundle.precisions import INT8
from bundle.pulled_bundles import PullRecord, files_of, read_pull_record
from bundle.reader import Bundle

log = logging.getLogger(__name__)

_KEPT_BYTES = 1000
_LEAST_PRIORITY = 19  # as nice has it: requests go before


class BackgroundQuantization:
    """Makes the graphs in 8 bits that bundles lack, one after the other, in a process of the least priority.

    A failure is logged, and changes nothing of what is served. Whether 8 bits serve then is decided by the engines'
    own checks, when the bundle is loaded again.

    Attributes:
        under_way: the name of the model whose graph is being made; empty if none is.

    Args:
        reload: reads the bundles on disk again.
    """

    def __init__(self, reload: Callable[[], Awaitable[object]]) -> None:
        self.under_way = ""
        self._reload = reload

    async def run(self, bundles: Iterable[Bundle]) -> None:
        """Make what is missing in `bundles`."""
        for bundle in [bundle for bundle in bundles if INT8 not in bundle.graphs]:
            self.under_way = bundle.name
            try:
                made = await self._make(bundle)
            finally:
                self.under_way = ""
            if made:
                await self._reload()

    async def _make(self, bundle: Bundle) -> bool:
        record, weights = read_pull_record(bundle.path), bundle.manifest.weights.id
        if record is None:
            log.warning(
                "%s stays as it is: only a bundle that crossvit serve or crossvit pull made can be made again in "
                "8 bits; export this one with --quantize int8",
                bundle.name,
            )
            return False
        if _changed(record):
            log.warning("%s stays as it is: what it was made from has changed; start anew for 8 bits", bundle.name)
            return False
        log.info("%s: the graph in 8 bits is being made in the background, which takes minutes", bundle.name)
        status, last_line = await _run(
            pull_command_line(
                record.source,
                [*without_option(record.options, "--quantize"), "--quantize", INT8, "--only-weights", weights],
            )
        )
        if status:
            log.error("%s stays as it is: the graph in 8 bits could not be made: %s", bundle.name, last_line)
        else:
            log.info("%s: the graph in 8 bits is made; it serves if it agrees with float32 and is faster", bundle.name)
        return not status


def _changed(record: PullRecord) -> bool:
    """Whether a file that the bundle was made from is another one now: 8 bits are made of what is served."""
    present = files_of(cached_source(record.source), record.options)
    return {path: list(seen) for path, seen in present.items()} != record.files


async def _run(command: list[str]) -> tuple[int, str]:
    """The exit status and the last line of `command`, whose processes end with this task."""
    child = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert child.stdout is not None
    end = b""  # of what it prints
    try:
        with suppress(ProcessLookupError):  # it has ended already
            os.setpriority(os.PRIO_PGRP, child.pid, _LEAST_PRIORITY)
        while chunk := await child.stdout.read(1 << 16):
            end = (end + chunk)[-_KEPT_BYTES:]
        return await child.wait(), next(reversed(end.decode(errors="replace").strip().splitlines()), "")
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            await child.wait()
