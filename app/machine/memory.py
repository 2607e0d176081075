"""The memory that this process and its workers may use: the machine's, and at most its container's limit."""

from pathlib import Path

from app.machine.cgroups import ROOT, cgroup_text, groups
from app.machine.machine_share import inherited_share

_MB = 1_000_000
_LIMIT_FILES = {1: ("memory.limit_in_bytes",), 2: ("memory.max", "memory.high")}
_HTTP_PROCESS_BYTES = 120 * _MB
_IDLE_DECODER_BYTES = 60 * _MB
_ENGINE_PROCESS_BYTES = 150 * _MB  # with its library, without the model
_BYTES_PER_PIXEL = 7  # while a PNG or a progressive JPEG is decoded
_GRAPH_COPIES = 3  # of the float32 graph, in the leanest engine at its start


def usable_memory(root: Path = ROOT) -> int | None:
    """The machine's memory in bytes, or the least limit of the control groups; None if the system tells neither.

    In one of several instances it is the instance's share of that.
    """
    if (share := inherited_share()) is not None:
        return share.memory
    limits = [limit for limit in (_machine_memory(root), memory_limit(root)) if limit is not None]
    return min(limits, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """The least memory limit of this process's control groups, in bytes; None without a limit."""
    limits = [
        int(limit)
        for version, group in groups("memory", root)
        for name in _LIMIT_FILES[version]
        if (limit := cgroup_text(group / name).strip()).isdecimal()
    ]
    return min(limits, default=None)


def decoder_bytes(max_pixels: int, decode_bytes: int) -> int:
    """The memory that a decoder needs for the largest allowed image."""
    return _IDLE_DECODER_BYTES + min(decode_bytes, _BYTES_PER_PIXEL * max_pixels)


def affordable_decoders(memory: int | None, max_pixels: int, decode_bytes: int) -> int | None:
    """The number of decoders that fit in half of `memory`, at least one. Engines and bodies have the other half."""
    return None if memory is None else max(1, memory // 2 // decoder_bytes(max_pixels, decode_bytes))


def needed_bytes(graph_bytes: int, decoders: int) -> int:
    """About the least memory of a service with small images and one model, whose float32 graph has `graph_bytes`."""
    return _HTTP_PROCESS_BYTES + decoders * _IDLE_DECODER_BYTES + _ENGINE_PROCESS_BYTES + _GRAPH_COPIES * graph_bytes


def megabytes(count: int) -> str:
    return f"{count / _MB:,.0f} MB"


def _machine_memory(root: Path) -> int | None:
    for line in cgroup_text(root / "proc/meminfo").splitlines():
        match line.split():
            case ["MemTotal:", kibibytes, "kB"] if kibibytes.isdecimal():
                return int(kibibytes) << 10
    return None
