"""The page's heat-maps, in Chromium."""

import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from tests.app.page.conftest import OpenPage
from tests.support.changed_bundles import without_inspection
from tests.support.page_steps import JPEG, assert_accessible, best, choose, picture, transfer
from tests.support.pictures import encoded, scene
from tests.support.servers import Server, crossvit_serve

STATIC = Path(__file__).parents[3] / "app" / "page" / "static"


SAMPLED = """canvas => {
    const small = new OffscreenCanvas(40, 20).getContext("2d", {willReadFrequently: true});
    small.drawImage(canvas, 0, 0, 40, 20);
    return [...small.getImageData(0, 0, 40, 20).data];
}"""


def overlay(page: Page, branch: str) -> NDArray[np.uint8]:
    """The map of `branch`, once it is there, (20, 40, 4): red, green, blue and opacity."""
    page.locator("#branch label", has_text=branch).click()
    expect(page.locator("#legend")).to_be_visible(timeout=120_000)
    return np.array(page.locator("#overlay").evaluate(SAMPLED), np.uint8).reshape(20, 40, 4)


def test_heat_maps_show_each_scale_over_what_the_network_sees(open_page: OpenPage) -> None:
    page = open_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if "/explain" in request.url else None)
    choose(page, picture(body=encoded(scene(400, 200, seed=3), "JPEG")))
    label = best(page)
    small, large, both = (overlay(page, branch) for branch in ("S", "L", "Both"))
    assert (small != large).any()
    assert (large != both).any()
    assert len(requests) == 1  # one answer has all maps
    canvas = page.locator("#overlay")
    expect(canvas).to_have_attribute("aria-label", re.compile(f"both scales for {label}: strongest (at|in) the "))
    expect(page.locator("#map-sentence")).to_contain_text(f"“{label}”")
    placed, below = canvas.bounding_box(), page.locator("#picture").bounding_box()
    assert placed is not None
    assert placed == pytest.approx(below, abs=1)
    seen = slice(12, 28)  # of 40 columns: the picture is twice as wide as high, and the network sees its middle
    for outside in (both[:, :10], both[:, 30:]):
        assert (outside[..., :3] == 0).all()  # darkened
        assert (outside[..., 3] > 100).all()
    assert (both[3:-3, seen, :3] > 0).any()
    page.get_by_label("Attention").check(force=True)
    expect(page.locator("#map-sentence")).to_contain_text("whatever the class")
    assert (overlay(page, "Both") != both).any()
    page.locator("#branch label", has_text="Off").click()
    expect(canvas).to_be_hidden()


def test_what_the_maps_do_not_explain_is_said(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    choose(page)
    assert best(page)
    index = page.locator(".bar input").first.input_value()
    accept = {"Accept": "application/json"}
    asked_for = {"class": index}
    answer = httpx.post(f"{server.url}/explain", params=asked_for, content=JPEG, headers=accept, timeout=60).json()
    maps = answer["explanations"][0]["contributions"]
    given = abs(maps["small"]["share"]) + abs(maps["large"]["share"])
    overlay(page, "S")
    words = page.locator("#map-sentence").inner_text()
    shown = re.search(r"patches are (\d+) % of all that went into its logit.*; the other (\d+) % came from", words)
    assert shown is not None, words
    assert [int(part) / 100 for part in shown.groups()] == pytest.approx([given, 1 - given], abs=0.01)
    assert words.endswith("read the map with care.") == (given < 0.5)
    parts = re.search(r"small \S(\d+) %, large \S(\d+) %", words)
    assert parts is not None, words
    assert int(parts[1]) + int(parts[2]) == pytest.approx(100 * given, abs=1)


def test_the_map_is_of_the_class_that_is_chosen(open_page: OpenPage) -> None:
    page = open_page()
    choose(page)
    first = overlay(page, "L")
    second = page.locator(".bar").nth(1)
    second.click()
    expect(page.locator("#map-sentence")).to_contain_text(f"“{second.locator('.bar-label').inner_text()}”")
    assert (overlay(page, "L") != first).any()
    page.get_by_label("Opacity").fill("20")
    assert page.locator("#overlay").evaluate("canvas => canvas.style.opacity") == "0.2"
    assert_accessible(page)


def test_all_shipped_photographs_have_bars_and_both_maps(open_page: OpenPage) -> None:
    page = open_page()
    for path in sorted((STATIC / "photographs").iterdir()):
        page.dispatch_event("#drop-zone", "drop", {"dataTransfer": transfer(page, path.name, path.read_bytes())})
        expect(page.locator("#picture-name")).to_have_text(path.name)
        expect(page.locator(".bar")).to_have_count(5)
        for branch in ("S", "L"):
            assert overlay(page, branch).any()


def test_a_model_without_maps_is_told_and_classifies(open_page: OpenPage, bundle: Path, tmp_path: Path) -> None:
    older = without_inspection(bundle, tmp_path / "older")
    with crossvit_serve(tmp_path / "log", "--bundle", str(older), "--engine", "null") as server:
        server.wait_until_ready()
        page = open_page(server.url)
        choose(page)
        assert best(page)
        page.locator("#branch label", has_text="S").click()
        expect(page.locator("#map-sentence")).to_contain_text(
            "No heat-map: older cannot be explained or embedded", ignore_case=True
        )
        expect(page.locator("#overlay")).to_be_hidden()
