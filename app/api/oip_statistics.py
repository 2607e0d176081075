"""A model's statistics in the form of Triton's statistics extension; durations are in nanoseconds."""

from typing import Any

from app.telemetry.metrics import Total, Totals


def model_statistics(name: str, version: str, totals: Totals) -> dict[str, Any]:
    """What the model has done since it was first loaded; what Triton counts and this service does not have is zero."""
    return {
        "name": name,
        "version": version,
        "last_inference": int(1000 * totals.last),
        "inference_count": totals.answered.count,
        "execution_count": sum(total.count for total in totals.batches.values()),
        "inference_stats": {
            "success": _count_and_ns(totals.answered),
            "fail": _count_and_ns(totals.failed),
            "queue": _count_and_ns(totals.queue),
            "compute_input": _count_and_ns(totals.decode),
            "compute_infer": _count_and_ns(totals.inference),
            "compute_output": _count_and_ns(Total()),
            "cache_hit": _count_and_ns(Total()),
            "cache_miss": _count_and_ns(Total()),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _count_and_ns(Total()),
                "compute_infer": _count_and_ns(total),
                "compute_output": _count_and_ns(Total()),
            }
            for size, total in sorted(totals.batches.items())
        ],
    }


def _count_and_ns(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": int(1e9 * total.seconds)}
