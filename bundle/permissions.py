"""The reason why a file cannot be read, and the remedy."""

import os
import stat
from pathlib import Path


def unreadable(path: Path, err: OSError) -> str:
    """A sentence on the `err` that reading `path` raised; for a missing permission whose it is, and how to give it."""
    if not isinstance(err, PermissionError):
        return f"{path} cannot be read ({err.strerror or err})"
    closed = next((part for part in (*reversed(path.parents), path) if not _is_open(part, whole=part == path)), path)
    try:
        status = closed.stat()
    except OSError:
        return f"{path} cannot be read ({err.strerror})"
    return (
        f"{path} cannot be read: {closed} belongs to user {status.st_uid} and group {status.st_gid}, mode "
        f"{stat.S_IMODE(status.st_mode):04o}, and this process is user {os.geteuid()}, groups {_groups()}; "
        "chown it, chmod it a+rX, or in Kubernetes set the pod's fsGroup"
    )


def _is_open(part: Path, *, whole: bool) -> bool:
    """Whether a folder can be passed (with `whole`: read), or a file read. By effective rights, as open() decides."""
    needed = os.R_OK if not part.is_dir() else os.R_OK | os.X_OK if whole else os.X_OK
    return os.access(part, needed, effective_ids=os.access in os.supports_effective_ids)


def _groups() -> str:
    return ", ".join(map(str, sorted({os.getegid(), *os.getgroups()})))
