"""How much memory this process and its workers may take: the machine's, and no more than its container's limit."""

from pathlib import Path

from app.machine.cgroups import ROOT, cgroup_text, groups

_MB = 1_000_000
_LIMITS = {1: ("memory.limit_in_bytes",), 2: ("memory.max", "memory.high")}
_SERVICE_BYTES = 120 * _MB  # the process for HTTP
_DECODER_BYTES = 60 * _MB  # a decoder between images
_ENGINE_BYTES = 150 * _MB  # an engine's process and library, without the model
_PIXEL_BYTES = 7  # for each pixel, while a PNG or a progressive JPEG is decoded
_GRAPH_COPIES = 3  # of the float32 graph, that the leanest engine holds at its start


def usable_memory(root: Path = ROOT) -> int | None:
    """Bytes, or None where the system does not say: the machine's memory, or the least limit of the control groups."""
    found = [limit for limit in (_machine(root), memory_limit(root)) if limit is not None]
    return min(found, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """The least memory limit of this process's control groups, in bytes; None where there is none."""
    limits = [
        int(limit)
        for version, group in groups("memory", root)
        for name in _LIMITS[version]
        if (limit := cgroup_text(group / name).strip()).isdecimal()
    ]
    return min(limits, default=None)


def decoder_bytes(max_pixels: int, decode_bytes: int) -> int:
    """What a decoder takes with the largest image that there may be."""
    return _DECODER_BYTES + min(decode_bytes, _PIXEL_BYTES * max_pixels)


def affordable_decoders(memory: int | None, max_pixels: int, decode_bytes: int) -> int | None:
    """How many decoders fit in half of `memory`; one at least. The other half is for the engines and for bodies."""
    return None if memory is None else max(1, memory // 2 // decoder_bytes(max_pixels, decode_bytes))


def needed_bytes(graph_bytes: int, decoders: int) -> int:
    """About the least that the service takes with one model whose float32 graph has so many bytes, and small images."""
    return _SERVICE_BYTES + decoders * _DECODER_BYTES + _ENGINE_BYTES + _GRAPH_COPIES * graph_bytes


def megabytes(count: int) -> str:
    return f"{count / _MB:,.0f} MB"


def _machine(root: Path) -> int | None:
    for line in cgroup_text(root / "proc/meminfo").splitlines():
        match line.split():
            case ["MemTotal:", kibibytes, "kB"] if kibibytes.isdecimal():
                return int(kibibytes) << 10
    return None
