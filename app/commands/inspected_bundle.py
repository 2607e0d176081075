"""What `crossvit explain` and `crossvit embed` are given: a bundle, a resolution of it, and image files."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from app.commands.classify import image_files
from app.configuration.settings import Settings, log_remarks
from app.errors import BadParameter
from bundle.discovery import bundle_at
from bundle.pulled_bundles import bundle_named
from bundle.reader import Bundle, open_bundle
from model.command_line import notes
from model.files.folders import others_in


@dataclass(frozen=True)
class InspectedBundle:
    """The bundle, the settings of the environment, the resolution, and the files, one at least."""

    bundle: Bundle
    settings: Settings
    resolution: int
    files: list[Path]


def inspected_bundle(paths: Iterable[Path], bundle: Path | None, resolution: int | None) -> InspectedBundle:
    """What the command's arguments name. Raises BadParameter or BadBundle."""
    paths = list(paths)
    if not any(path.exists() for path in paths):  # if any does, it is inspected
        raise BadParameter(f"{', '.join(map(str, paths))}: no such file")
    files = list(image_files(paths))
    if not files:
        raise BadParameter(f"no image files there{others_in(paths)}")
    settings = Settings(bundle=bundle_named(bundle)) if bundle else Settings()
    log_remarks()
    opened = open_bundle(bundle_at(settings.bundles, settings.default_model))
    if opened.warning:
        notes.print(opened.warning, style="bold red")
    served = resolution or opened.manifest.default_resolution
    if served not in opened.resolutions:
        raise BadParameter(f"resolution {served} is not served; one of {', '.join(map(str, opened.resolutions))}")
    return InspectedBundle(opened, settings, served, files)
