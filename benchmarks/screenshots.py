"""Screenshots of the page with a real service behind it: `make screenshots` writes those of the documents.

The photographs in them are those that the page offers. What they look like depends on the fonts of the machine; Inter
is the first choice of the page.
"""

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from PIL import Image
from playwright.sync_api import Browser, Page

from benchmarks.command_line import run
from tests.support.browser import chromium
from tests.support.servers import crossvit_serve

WEBP_QUALITY = 82
DESKTOP: dict[str, Any] = {"viewport": {"width": 1240, "height": 860}, "device_scale_factor": 1.25}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 780}, "device_scale_factor": 1.5, "is_mobile": True, "has_touch": True
}  # fmt: skip


def screenshots(
    bundle: Annotated[Path, typer.Argument(help="whose answers are shown")],
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("docs/page"),
) -> None:
    """Write light.webp, dark.webp and phone.webp."""
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, crossvit_serve(Path(folder) / "log", "--bundle", str(bundle)) as server:
        server.wait_until_ready()
        with chromium() as browser:
            _light(_opened(browser, server.url, DESKTOP), out / "light.webp")
            _dark(_opened(browser, server.url, DESKTOP | {"color_scheme": "dark"}), out / "dark.webp")
            _phone(_opened(browser, server.url, PHONE), out / "phone.webp")


def _opened(browser: Browser, url: str, options: dict[str, Any]) -> Page:
    page = browser.new_context(reduced_motion="reduce", **options).new_page()
    page.goto(url)
    page.locator("#resolution option").first.wait_for(state="attached")
    return page


def _light(page: Page, path: Path) -> None:
    """Several pictures, the answer of one."""
    for name in ("chelsea", "hopper", "goldfish", "coffee"):
        _classify(page, name)
    _save(page, path)


def _dark(page: Page, path: Path) -> None:
    """What both scales looked at."""
    _classify(page, "goldfish")
    _look(page, "Both")
    _save(page, path)


def _phone(page: Page, path: Path) -> None:
    """What the large patches looked at."""
    _classify(page, "coffee")
    _look(page, "L")
    _save(page, path)


def _classify(page: Page, name: str) -> None:
    page.click(f'button[data-file="{name}.jpg"]')
    page.locator("#picture-name", has_text=f"{name}.jpg").wait_for()
    page.locator(".best").wait_for()


def _look(page: Page, branch: str) -> None:
    page.locator("#branch label", has_text=branch).click()
    page.locator("#overlay").wait_for(state="visible", timeout=120_000)


def _save(page: Page, path: Path) -> None:
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_load_state("networkidle")
    Image.open(BytesIO(page.screenshot())).save(path, quality=WEBP_QUALITY, method=6)


if __name__ == "__main__":
    run(screenshots, program="benchmarks.screenshots")
