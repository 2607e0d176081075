"""The folder of what can be made again: compiled models, measurements of builds."""

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
