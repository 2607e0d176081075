"""A Chromium that Playwright drives, and what a page in it does wrong."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a camera, and leave to use it


class NoBrowser(Exception):
    """There is no Chromium here."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or else Playwright's own; NoBrowser without both."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_executable(playwright),
            args=[*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])],  # it has none for root
        )
        try:
            yield browser
        finally:
            browser.close()


def _executable(playwright: Playwright) -> str:
    own = playwright.chromium.executable_path
    found = next(filter(None, map(shutil.which, _NAMES)), own if Path(own).exists() else None)
    if found is None:
        raise NoBrowser(
            "no Chromium here: install your system's package `chromium`, or run `playwright install chromium`"
        )
    return found


def watch(page: Page) -> list[str]:
    """A list that gets what goes wrong in `page`: errors of scripts, and what its Content-Security-Policy refuses."""
    wrong: list[str] = []

    def logged(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            wrong.append(message.text)

    page.on("console", logged)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return wrong
