"""The folder of what can be made again: compiled models, measurements of builds."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The user's cache folder of this project, such as ~/.cache/crossvit; an absolute XDG_CACHE_HOME moves it.

    It need not exist. Raises OSError if the user has no home.
    """
    try:
        return platformdirs.user_cache_path("crossvit", appauthor=False)
    except RuntimeError as err:
        raise OSError(str(err)) from err


def private_cache_folder(*names: str) -> Path:
    """A folder of these names in each other, in `cache_folder`, made if it is not there.

    Only the user may read it: one that others may read, and not write, is closed to them. Raises OSError if it cannot
    be made, or if another user owns it or may write to it, since what is kept there is code.
    """
    folder = cache_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    for part in (folder, *(folder.joinpath(*names[: count + 1]) for count in range(len(names)))):
        part.mkdir(exist_ok=True, mode=0o700)
        status = part.stat(follow_symlinks=False)
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise OSError(
                f"{part} is another user's, or open to others, and plans are code: remove it, or chmod 700 it"
            )
        if status.st_mode & 0o077:
            part.chmod(0o700)
    return folder.joinpath(*names)
