"""A browser for the tests of the page, and contexts of it that end with each test."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import NoBrowser, chromium, watch
from tests.support.changed_bundles import warn
from tests.support.page_steps import KEY
from tests.support.servers import Server, crossvit_serve

CAUTION = "often wrong, as this test has it"

OpenPage = Callable[..., Page]

MILLISECONDS = 30_000  # for what a page shows at once, on a machine with other work

expect.set_options(timeout=MILLISECONDS)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as started:
            yield started
    except NoBrowser as err:
        (pytest.fail if os.environ.get("TESTS_COMPLETE") else pytest.skip)(str(err))


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[OpenPage]:
    """Opens the page of a server, by default the session's, in a context with the given options.

    The test fails if a script of the page fails, or if its Content-Security-Policy refuses something.
    """
    contexts = []
    wrong = []

    def open_at(url: str = server.url, **options: Any) -> Page:
        context = browser.new_context(
            **{"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce"} | options
        )
        contexts.append(context)
        context.set_default_timeout(MILLISECONDS)
        page = context.new_page()
        wrong.append(watch(page))
        page.goto(url)
        page.locator("#resolution option, dialog[open]").first.wait_for(state="attached")
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert [message for messages in wrong for message in messages] == []


@pytest.fixture(scope="package")
def keyed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that needs a key, with places for one image in its queues and a slow engine.

    Of its two models the second has a warning.
    """
    folder = tmp_path_factory.mktemp("keyed")
    for name in ("first", "second"):
        shutil.copytree(bundle, folder / "models" / name)
    warn(folder / "models" / "second", CAUTION)
    options = ["--engine", "null", "--null-rate", "3", "--max-queue", "1", "--max-images", "1", "--max-batch", "1"]
    models = ["--bundle", str(folder / "models"), "--default-model", "first"]
    with crossvit_serve(folder / "log", *models, *options, "--api-keys", f"page:{KEY}") as started:
        started.wait_until_ready()
        yield started
