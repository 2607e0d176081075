"""Profiles of a call: kernels on the device by PyTorch's profiler, nodes by ONNX Runtime's own."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.contest.contestant import PROFILED_CALLS

SHOWN_KERNELS = 10
SHOWN_NODE_KINDS = 40  # all, so that casts and transposes are seen

Row = tuple[str, int, float]  # what, how often in a call, milliseconds of a call


def torch_kernels(call: Callable[[], object], device: str) -> list[Row]:
    """The slowest kernels of `call`, whatever library launches them: the profiler sees all of the process.

    On the CPU the operators of PyTorch, and nothing of other libraries.
    """
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILED_CALLS):
            call()
    kind = "CUDA" if on_gpu else "CPU"
    return slowest(
        (event.key, event.count, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000)
        for event in profiler.key_averages()
        if event.device_type.name == kind
    )


def session_nodes(file: Path, skipped: int) -> dict[str, Any]:
    """ONNX Runtime's profile without the first `skipped` calls: its kinds of nodes by their time.

    Those on the CPU beside another provider are named one by one. With the CUDA provider a node's time is that of its
    launch, unless it waits for the device.
    """
    events = [event for event in json.loads(file.read_text()) if _is_run(event)]
    calls = PROFILED_CALLS + skipped
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    names: dict[str, set[str]] = defaultdict(set)
    for event in events[len(events) * skipped // calls :]:
        provider, operator = event["args"].get("provider", ""), event["args"]["op_name"]
        nodes[provider, operator].append(event["dur"] / 1000)
        names[provider].add(f"{operator} {event['name'].removesuffix('_kernel_time')}")
    rows = ((f"{operator} ({provider})", len(times), sum(times)) for (provider, operator), times in nodes.items())
    on_cpu = sorted(names["CPUExecutionProvider"]) if len(names) > 1 else []
    return {"nodes": slowest(rows, SHOWN_NODE_KINDS), "nodes_on_cpu": on_cpu}


def _is_run(event: dict[str, Any]) -> bool:
    return event.get("cat") == "Node" and event["name"].endswith("_kernel_time")


def slowest(rows: Iterable[Row], shown: int = SHOWN_KERNELS) -> list[Row]:
    """Of (what, count, milliseconds) in PROFILED_CALLS calls, those that take longest, for one call."""
    ordered = sorted(rows, key=lambda row: -row[2])
    return [(what, round(count / PROFILED_CALLS), total / PROFILED_CALLS) for what, count, total in ordered[:shown]]


def profile_table(title: str, found: dict[str, Any]) -> str:
    """Markdown of what a contestant's `profile` found."""
    lines = [f"{title}, per call\n"]
    for kind in ("kernels", "nodes"):
        if found.get(kind):
            lines += [f"| {kind} | times | ms |", "|---|---|---|"]
            lines += [
                f"| {what.replace('|', chr(92) + '|')[:120]} | {count} | {ms:.3f} |" for what, count, ms in found[kind]
            ]
            lines.append("")
    if found.get("nodes_on_cpu"):
        lines.append(f"Nodes on the CPU: {', '.join(found['nodes_on_cpu'])}\n")
    if found.get("note"):
        lines.append(found["note"] + "\n")
    return "\n".join(lines)
