"""The results of `crossvit classify --html`: one page that needs no other file, and no script."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.commands.classify_output import result_rows
from app.decoding.overlay import grey_pixels, with_maps
from app.errors import BadParameter
from bundle.reader import Bundle

if TYPE_CHECKING:
    from app.commands.classify import FileResult

_STYLE = Path(__file__).with_suffix(".css")
_JPEG_QUALITY = 82
_MAP_OPACITY = 0.8
_BRANCHES = ("small patches", "large patches")
_MOSTLY_EXPLAINED = 0.5  # of what makes a logit; maps of less are to be read with care


class HtmlReport:
    """Writes one section per file to `path` as they come: one that is stopped shows those until then.

    Args:
        path: of the page, which replaces a file that is there. BadParameter if it cannot be written.
        bundle: that classifies.
        resolution: at which it does.
        files: how many will come.
        maps: whether they will be explained.
    """

    def __init__(self, path: Path, bundle: Bundle, resolution: int, files: int, *, maps: bool = False) -> None:
        try:
            self._file = path.open("w", encoding="utf-8", errors="backslashreplace")  # names need not be UTF-8
        except OSError as err:
            raise BadParameter(f"--html {path} cannot be written: {err.strerror}") from err
        self._file.write(_head(bundle, resolution, files, maps))

    def add(self, result: "FileResult") -> None:
        """Write the section of a file, of which the pixels that the network sees are known, unless it failed."""
        self._file.write(f"<article>\n<h2><bdi>{escape(str(result.path))}</bdi></h2>\n{_content(result)}</article>\n")

    def close(self) -> None:
        self._file.write("</main>\n</html>\n")
        self._file.close()


def _head(bundle: Bundle, resolution: int, files: int, maps: bool) -> str:
    style = _STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    weights = bundle.manifest.weights
    warning = f'<p class="warning">{escape(bundle.warning)}</p>\n' if bundle.warning else ""
    legend = "<p>In the maps, magenta to yellow speaks for the best class and blue against it.</p>\n" if maps else ""
    pictures = "1 picture" if files == 1 else f"{files} pictures"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'sha256-{digest}'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{pictures}, classified by {escape(bundle.name)}</title>\n<style>{style}</style>\n<header>\n"
        f"<h1>{pictures}</h1>\n<p>Classified by {escape(bundle.name)} at {resolution}; weights "
        f"{escape(weights.id[:19])}: {escape(weights.source)}</p>\n{legend}{warning}</header>\n<main>\n"
    )


def _content(result: "FileResult") -> str:
    if result.error is not None:
        return f'<p class="problem">{escape(result.error)}</p>\n'
    bars = "".join(
        f"<li><span>{escape(str(row['label']))}</span><span>{row['score']:.1%}</span>"
        '<svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{100 * float(str(row["score"])):.2f}" height="1"/></svg></li>\n'
        for row in result_rows(result)
    )
    return f'<div class="row">\n{"".join(_figures(result))}<ol>\n{bars}</ol>\n</div>\n{_share_words(result)}'


def _share_words(result: "FileResult") -> str:
    """How much the maps say: a share is a map's sum by the sizes of all that makes the logit."""
    if result.explained is None:
        return ""
    given = sum(abs(share) for share in result.explained.shares)
    care = ": read the maps with care" if given < _MOSTLY_EXPLAINED else ""
    return (
        f"<p class=\"share\">The last fusion's patches are {given:.0%} of all that went into the best class's "
        f"logit, for and against; the other {1 - given:.0%} came from elsewhere{care}.</p>\n"
    )


def _figures(result: "FileResult") -> Iterator[str]:
    assert result.seen is not None
    yield _figure(result.seen, "what the network sees")
    if result.explained is not None:
        maps = (result.explained.maps.small, result.explained.maps.large)
        for name, grid, share in zip(_BRANCHES, maps, result.explained.shares, strict=True):
            yield _figure(_mapped(result.seen, [grid.tolist()]), f"{name}: {share:+.0%}")


def _mapped(seen: NDArray[np.uint8], grids: Sequence[list[list[float]]]) -> NDArray[np.uint8]:
    """`seen` in grey with the map over it."""
    return np.rint(with_maps(grey_pixels(Image.fromarray(seen)), grids, _MAP_OPACITY)).astype(np.uint8)


def _figure(pixels: NDArray[np.uint8], caption: str) -> str:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    height, width, _ = pixels.shape
    size = f'width="{width}" height="{height}"'
    return (
        f'<figure><img {size} alt="" loading="lazy" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )
