"""Run in the service's container: what it may do there, and what its processes have done. Prints JSON."""

import json
import os
from pathlib import Path

from app.machine.cpus import usable_cpus

PEAKS = ("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes")  # of control groups 2 and 1


def writable(folder: str) -> bool:
    try:
        Path(folder, "probe").write_text("x")
    except OSError:
        return False
    return True


def workers() -> dict[Path, str]:
    """The service's workers and their roles, by their places in /proc."""
    commands = {path.parent: path.read_text().split("\0") for path in Path("/proc").glob("[0-9]*/cmdline")}
    return {
        place: command[6] for place, command in commands.items() if command[2:4] == ["-m", "app.processes.worker_main"]
    }


def ticks(place: Path) -> list[int]:
    """Processor time of each thread."""
    fields = [stat.read_text().rpartition(") ")[2].split() for stat in place.glob("task/*/stat")]
    return sorted(int(field[11]) + int(field[12]) for field in fields)


status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
engine = next(place for place, role in workers().items() if role.startswith("engine"))
print(
    json.dumps(
        {
            "user": os.getuid(),
            "capabilities": int(status["CapEff"], 16),
            "no_new_privileges": int(status["NoNewPrivs"]),
            "writable": [folder for folder in ("/", "/etc", "/opt/crossvit", "/bundles", "/cache") if writable(folder)],
            "usable_cpus": usable_cpus(),
            "roles": sorted(role.split()[0] for role in workers().values()),
            "engine_ticks": ticks(engine),
            "peak_memory": next(int(Path(file).read_text()) for file in PEAKS if Path(file).exists()),
        }
    )
)
