"""How many instances `--instances auto` starts."""

from collections.abc import Sequence

from app.configuration.settings import Settings


def chosen_count(settings: Settings, arguments: Sequence[str]) -> int:
    return 1
