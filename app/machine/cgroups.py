"""The control groups, of version 1 or 2, whose limits apply to this process.

The limits of a group's parents apply too. In a container the path in /proc often does not exist: its own group is then
mounted as the root. Source: the kernel's documentation of cgroup v1 and v2.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def groups(controller: str, root: Path = ROOT) -> Iterator[tuple[int, Path]]:
    """The version and folder of each group that may limit `controller`; not all of the folders exist."""
    for line in cgroup_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from ((2, group) for group in _with_parents(root / "sys/fs/cgroup", path))
        elif controller in controllers.split(","):
            for mount in (controllers, controller):
                yield from ((1, group) for group in _with_parents(root / "sys/fs/cgroup" / mount, path))


def cgroup_text(file: Path) -> str:
    """The content of the file, or an empty text if it cannot be read."""
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""


def _with_parents(mount: Path, path: str) -> list[Path]:
    own = PurePosixPath(path.lstrip("/"))
    return [mount / group for group in (own, *own.parents) if ".." not in group.parts]
