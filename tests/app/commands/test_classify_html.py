"""The page that `crossvit classify --html` writes: complete by itself, and harmless whatever files are called."""

import base64
import hashlib
import re
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from app.cli import main
from tests.support.changed_bundles import without_inspection
from tests.support.pictures import encoded, scene

HOSTILE = """<img src=x onerror=alert(1)> "x' & \u202e.png"""
FOREIGN = b"caf\xe9.png".decode("utf-8", "surrogateescape")  # a name in Latin-1


@pytest.fixture(autouse=True)
def quick_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENGINE", "onnxruntime"), ("PRECISION", "f32"), ("DECODERS", "1")):
        monkeypatch.setenv(f"CROSSVIT_{name}", value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "wide.jpg").write_bytes(encoded(scene(500, 250), "JPEG"))
    (folder / HOSTILE).write_bytes(encoded(scene(260, 260, seed=1)))
    (folder / FOREIGN).write_bytes(encoded(scene(260, 260, seed=2)))
    (folder / "cut.jpg").write_bytes(encoded(scene(500, 250), "JPEG")[:2000])
    return folder


def classify(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["classify", *map(str, arguments)])


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def pictures(page: str) -> list[Image.Image]:
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [Image.open(BytesIO(base64.b64decode(source))) for source in sources]


def test_a_page_has_all_pictures_bars_and_errors_and_needs_nothing_else(
    bundle: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    done = classify(folder, "--bundle", bundle, "--top-k", 3, "--html", out)
    assert (done.exit_code, done.stdout) == (1, "")  # one file is broken
    page = out.read_text()
    tags = Tags(page)
    assert len(tags.all("article")) == 4
    assert [picture.size for picture in pictures(page)] == [(224, 224)] * 3
    assert len(tags.all("li")) == len(tags.all("rect")) == 9
    assert all(0 <= float(bar["width"] or "") <= 100 for bar in tags.all("rect"))
    assert "the file ends before its last pixels" in page
    assert "4 pictures" in page
    assert not re.search(r"https?://|url\(|@import", page)
    assert page.rstrip().endswith("</html>")


def test_names_of_files_stay_text(bundle: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    classify(folder, "--bundle", bundle, "--html", out)
    page = out.read_text()
    assert {tag for tag, _ in Tags(page).found} <= {
        "html", "meta", "title", "style", "header", "main", "h1", "h2", "p", "article", "bdi", "div", "figure", "img",
        "figcaption", "ol", "li", "span", "svg", "rect",
    }  # fmt: skip
    assert HOSTILE in unescape(page)
    assert "caf\\udce9.png" in page


def test_the_page_allows_itself_no_script_and_one_style(bundle: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    classify(folder / "wide.jpg", "--bundle", bundle, "--html", out)
    page = out.read_text()
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [tag["content"] for tag in Tags(page).all("meta") if "http-equiv" in tag]
    assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    assert not any("style" in attributes for _, attributes in Tags(page).found)


def test_with_explain_each_picture_has_the_maps_of_both_branches(bundle: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    done = classify(folder / "wide.jpg", "--bundle", bundle, "--html", out, "--explain")
    assert done.exit_code == 0, done.output
    page = out.read_text()
    seen, small, large = pictures(page)
    assert seen.size == small.size == large.size == (224, 224)
    assert seen.tobytes() != small.tobytes() != large.tobytes()
    assert "magenta to yellow speaks for the best class and blue against it" in page
    shares = [int(found) for found in re.findall(r"(?:small|large) patches: ([+-]\d+)%<", page)]
    said = re.search(r"patches are (\d+)% of all that went into .* logit, .*; the other (\d+)% came from", page)
    assert said is not None
    given, rest = map(int, said.groups())
    assert len(shares) == 2
    assert sum(map(abs, shares)) == pytest.approx(given, abs=1)
    assert given + rest == pytest.approx(100, abs=1)
    assert ("read the maps with care" in page) == (given < 50)


def test_without_explain_nothing_is_said_of_maps(bundle: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    classify(folder / "wide.jpg", "--bundle", bundle, "--html", out)
    assert "In the maps" not in out.read_text()
    assert "fusion" not in out.read_text()


def test_a_bundle_that_explains_nothing_is_told_before_files_are_classified(
    bundle: Path, folder: Path, tmp_path: Path
) -> None:
    older, out = without_inspection(bundle, tmp_path / "older"), tmp_path / "report.html"
    done = classify(folder, "--bundle", older, "--html", out, "--explain")
    assert done.exit_code == 2
    assert "crossvit pull" in done.stderr
    assert not out.exists()


def test_options_that_cannot_be_are_a_sentence(bundle: Path, folder: Path, tmp_path: Path) -> None:
    done = classify(folder, "--bundle", bundle, "--explain")
    assert (done.exit_code, "--explain goes with --html" in done.stderr) == (2, True)
    done = classify(folder, "--bundle", bundle, "--html", tmp_path / "nowhere" / "report.html")
    assert (done.exit_code, "cannot be written: No such file or directory" in done.stderr) == (2, True)
