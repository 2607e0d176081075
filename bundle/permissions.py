"""Why a file cannot be read, and what would make it readable."""

import os
import stat
from pathlib import Path


def unreadable(path: Path, err: OSError) -> str:
    """What kept `path` from being read, which raised `err`: of a missing permission, whose, and what would give it."""
    if not isinstance(err, PermissionError):
        return f"{path} cannot be read ({err.strerror or err})"
    closed = next((part for part in (*reversed(path.parents), path) if not _is_open(part, whole=part == path)), path)
    try:
        found = closed.stat()
    except OSError:
        return f"{path} cannot be read ({err.strerror})"
    return (
        f"{path} cannot be read: {closed} belongs to user {found.st_uid} and group {found.st_gid}, mode "
        f"{stat.S_IMODE(found.st_mode):04o}, and this process is user {os.geteuid()}, groups {_groups()}; "
        "chown it, chmod it a+rX, or in Kubernetes set the pod's fsGroup"
    )


def _is_open(part: Path, *, whole: bool) -> bool:
    """Whether a folder can be passed, or with `whole` read; or a file read. By effective rights, as opening is."""
    needed = os.R_OK if not part.is_dir() else os.R_OK | os.X_OK if whole else os.X_OK
    return os.access(part, needed, effective_ids=os.access in os.supports_effective_ids)


def _groups() -> str:
    return ", ".join(map(str, sorted({os.getegid(), *os.getgroups()})))
