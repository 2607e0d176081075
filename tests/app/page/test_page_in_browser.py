"""The page in Chromium, at real servers: every way in, what is shown, and how it is said when something goes wrong."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.app.page.conftest import OpenPage
from tests.support.calibrations import calibrate_bundle, made_calibration
from tests.support.changed_bundles import warn, without_inspection
from tests.support.pictures import encoded, scene
from tests.support.servers import Server, crossvit_serve, free_port

CAUTION = "often wrong, as this test has it"
KEY = "key-of-the-page-0123"
ODD_NAME = """it's "one" $(touch made); type=text, ü.jpg"""
JPEG = encoded(scene(320, 240, seed=1), "JPEG", quality=85)
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
STATIC = Path(__file__).parents[3] / "app" / "page" / "static"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="module")
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


def picture(name: str = "scene.jpg", body: bytes = JPEG) -> FilePayload:
    """A file as the browser's dialog would give it."""
    return {"name": name, "mimeType": "image/jpeg", "buffer": body}


def choose(page: Page, *files: FilePayload) -> None:
    page.set_input_files("#choose", list(files) or [picture()])


def unlocked(page: Page) -> Page:
    """The page of `keyed`, with its key typed."""
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    return page


def best(page: Page) -> str:
    """The class that the page names first, once there is one."""
    return page.locator(".best strong").inner_text()


def asked(server: Server, body: bytes = JPEG, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.post(f"{server.url}/classify", params=options, content=body, timeout=60).json()
    return answer


def transfer(page: Page, name: str, body: bytes) -> Any:
    """A DataTransfer with a file, as a drop or a paste has it."""
    return page.evaluate_handle(
        """([name, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
            return transfer;
        }""",
        [name, list(body)],
    )


def assert_accessible(page: Page) -> None:
    found = Axe().run(page, options=RULES)
    assert found.violations_count == 0, found.generate_report()


# The ways in


def test_a_chosen_picture_gets_the_answer_that_a_program_gets(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    choose(page)
    predictions = asked(server)["predictions"]
    assert best(page) == predictions[0]["label"]
    assert page.locator(".bar-label").all_inner_texts() == [found["label"] for found in predictions]
    assert page.locator(".best span").inner_text() == f"{100 * predictions[0]['score']:.1f} %"
    widths = page.locator(".track i").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * found["score"] for found in predictions], abs=0.5)


def test_a_dropped_picture_and_a_pasted_one_are_classified(open_page: OpenPage) -> None:
    page = open_page()
    page.dispatch_event("#drop-zone", "drop", {"dataTransfer": transfer(page, "dropped.jpg", JPEG)})
    expect(page.locator("#picture-name")).to_have_text("dropped.jpg")
    assert best(page)
    page.evaluate(
        "data => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))",
        transfer(page, "image.png", encoded(scene(200, 200, seed=2))),
    )
    expect(page.locator("#picture-name")).to_have_text("pasted.png")
    expect(page.locator(".strip-item")).to_have_count(2)


def test_what_is_no_file_is_answered_with_what_would_help(open_page: OpenPage) -> None:
    page = open_page()
    text = page.evaluate_handle("() => { const t = new DataTransfer(); t.setData('text/plain', 'x'); return t; }")
    page.dispatch_event("#drop-zone", "drop", {"dataTransfer": text})
    expect(page.get_by_role("alert")).to_contain_text("copy the picture itself and paste it")
    page.evaluate(
        "data => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))", text
    )
    expect(page.get_by_role("alert")).to_contain_text("no picture in the clipboard")


def test_each_shipped_photograph_is_classified_by_one_click(open_page: OpenPage) -> None:
    page = open_page()
    names = sorted(path.name for path in (STATIC / "photographs").iterdir())
    for name in names:
        page.click(f'button[data-file="{name}"]')
        expect(page.locator("#picture-name")).to_have_text(name)
    expect(page.locator('.strip-item[data-state="answered"]')).to_have_count(len(names))
    assert best(page)


def test_the_camera_takes_a_picture_where_there_is_one(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator("#picture-name")).to_have_text(re.compile(r"camera-[\d-]+\.jpg"))
    assert best(page)
    assert page.evaluate("document.querySelector('#viewfinder').srcObject") is None


def test_the_camera_is_not_offered_where_there_is_none(open_page: OpenPage) -> None:
    page = open_page()
    page.context.add_init_script("navigator.mediaDevices.enumerateDevices = async () => []")
    page.reload()
    choose(page)
    assert best(page)
    expect(page.get_by_role("button", name="Use the camera")).to_be_hidden()


# Several pictures, and options


def test_several_pictures_are_gone_through_and_removed(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    bodies = [encoded(scene(200, 160, seed=seed), "JPEG") for seed in range(3)]
    choose(page, *(picture(f"{number}.jpg", body) for number, body in enumerate(bodies)))
    expect(page.locator('.strip-item[data-state="answered"]')).to_have_count(3)
    page.locator(".strip-item").nth(2).click()
    expect(page.locator("#picture-name")).to_have_text("2.jpg")
    assert best(page) == asked(server, bodies[2])["predictions"][0]["label"]
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#picture-name")).to_have_text("1.jpg")
    for _ in range(2):
        page.get_by_role("button", name="Remove").click()
    expect(page.locator("#workspace")).to_be_hidden()
    expect(page.get_by_role("heading", name="What is in the picture?")).to_be_visible()


def test_other_options_ask_again(open_page: OpenPage, keyed: Server) -> None:
    page = unlocked(open_page(keyed.url))
    choose(page)
    expect(page.locator(".bar")).to_have_count(5)
    page.get_by_label("Classes", exact=True).fill("3")
    page.get_by_label("Classes", exact=True).blur()
    expect(page.locator(".bar")).to_have_count(3)
    page.get_by_label("Model").select_option("second")
    expect(page.locator(".words")).to_contain_text("second at 224")
    page.get_by_label("Resolution").select_option("384")
    expect(page.locator(".words")).to_contain_text("second at 384")
    page.get_by_label("Classes", exact=True).fill("0")
    page.get_by_label("Classes", exact=True).blur()
    assert page.get_by_label("Classes", exact=True).evaluate("field => !field.validity.valid")
    expect(page.locator(".bar")).to_have_count(3)


def test_the_warning_is_that_of_the_chosen_model(open_page: OpenPage, keyed: Server) -> None:
    page = unlocked(open_page(keyed.url))
    for name, warnings in (("second", [f"second: {CAUTION}"]), ("first", [])):
        page.get_by_label("Model").select_option(name)
        expect(page.locator("#notice-model")).to_have_text(warnings)


def test_a_long_name_leaves_the_button_beside_it_whole(open_page: OpenPage) -> None:
    page = open_page(**PHONE)
    choose(page, picture("a"), picture(f"{'n' * 176}.jpg"))
    remove = page.get_by_role("button", name="Remove")
    usual = remove.bounding_box()
    page.locator(".strip-item").nth(1).click()
    name = page.locator("#picture-name")
    expect(name).to_have_attribute("title", f"{'n' * 176}.jpg")
    assert name.evaluate("name => name.scrollWidth > name.clientWidth && name.clientHeight < 40")
    assert usual is not None
    assert remove.bounding_box() == pytest.approx(usual, abs=1)


def test_times_add_up_to_the_services_own(open_page: OpenPage) -> None:
    page = open_page()
    choose(page)
    page.get_by_text("The answer as JSON").click()
    timing = json.loads(page.locator("pre").last.inner_text())["timing_ms"]
    expect(page.locator(".timings")).to_contain_text("with the way there and back")
    shown = [float(text) for text in re.findall(r"([\d.]+) ms", page.locator(".timings ul").inner_text())]
    assert sum(shown) == pytest.approx(timing["total"], abs=2)


# What the network looked at


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


# What the answer means


def test_both_scales_and_an_uncalibrated_model_are_put_in_words(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    choose(page)
    branches = asked(server, details="branches")["branches"]
    words = page.locator(".words")
    expect(words).to_contain_text("Not calibrated: scores rank the classes")
    expect(words).to_contain_text("does not mean that answers with such a score are right that often")
    expect(words).to_contain_text(branches["small"]["label"])
    expect(words).to_contain_text(branches["large"]["label"])
    expect(words).to_contain_text(f"{branches['disagreement']:.2f} of 1 bit apart")
    expect(page.get_by_label("Set")).to_be_hidden()


def test_a_calibrated_model_offers_sets_that_hold_the_true_class(
    open_page: OpenPage, bundle: Path, tmp_path: Path
) -> None:
    calibrated = Path(shutil.copytree(bundle, tmp_path / "calibrated"))
    calibrate_bundle(calibrated, made_calibration(calibrated, thresholds={0.8: 0.05, 0.9: 0.1}))
    with crossvit_serve(tmp_path / "log", "--bundle", str(calibrated), "--engine", "null") as server:
        server.wait_until_ready()
        page = open_page(server.url)
        choose(page)
        assert best(page)
        expect(page.locator(".words")).to_contain_text("Calibrated: of answers with a score like this one")
        assert page.locator("#coverage option:not(:disabled)").all_inner_texts() == ["none", "80 %", "90 %"]
        page.get_by_label("Set").select_option("90 %")
        expect(page.locator(".words")).to_contain_text("hold the right class of 90 % of pictures")
        found = asked(server, coverage=0.9)["prediction_set"]["classes"]
        expect(page.locator(".words")).to_contain_text(found[-1]["label"])
        page.get_by_label("Resolution").select_option("384")
        expect(page.get_by_label("Set")).to_be_hidden()
        expect(page.locator(".words")).to_contain_text("at 384")


def test_of_a_large_set_ten_names_are_said_and_how_many_more_there_are(
    open_page: OpenPage, bundle: Path, tmp_path: Path
) -> None:
    calibrated = Path(shutil.copytree(bundle, tmp_path / "calibrated"))
    calibrate_bundle(calibrated, made_calibration(calibrated, thresholds={0.9: 100.0}))
    with crossvit_serve(tmp_path / "log", "--bundle", str(calibrated), "--engine", "null") as server:
        server.wait_until_ready()
        page = open_page(server.url)
        page.get_by_label("Set").select_option("90 %")
        choose(page)
        found = [each["label"] for each in asked(server, coverage=0.9)["prediction_set"]["classes"]]
        assert len(found) > 10
        said = f"This one has {len(found)} classes: {', '.join(found[:10])} and {len(found) - 10} more."
        expect(page.locator(".words")).to_contain_text(said)


# The same request from a program


def copied(page: Page, name: str) -> str:
    page.get_by_role("button", name=f"Copy {name}", exact=True).click()
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_the_copied_command_and_program_get_the_same_answer(
    open_page: OpenPage, server: Server, tmp_path: Path
) -> None:
    (tmp_path / ODD_NAME).write_bytes(JPEG)
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Classes", exact=True).fill("2")
    choose(page, picture(ODD_NAME))
    expected = asked(server, top_k=2)["predictions"]
    assert best(page) == expected[0]["label"]
    page.get_by_text("The same request from a program").click()
    done = subprocess.run(
        ["/bin/bash", "-c", f"{copied(page, 'curl')} -s"], cwd=tmp_path, capture_output=True, check=True
    )
    assert [found["index"] for found in json.loads(done.stdout)["predictions"]] == [
        found["index"] for found in expected
    ]
    command = [sys.executable, "-c", copied(page, "Python")]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [f"{found['score']:.1%}  {found['label']}" for found in expected]
    subprocess.run(["/bin/bash", "-c", f"{copied(page, 'curl, for the heat-map')} -s"], cwd=tmp_path, check=True)
    with Image.open(tmp_path / "heat-map.png") as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (320, 240))
    assert {path.name for path in tmp_path.iterdir()} == {ODD_NAME, "heat-map.png"}  # nothing of the name was run


def test_the_copied_command_asks_for_the_map_on_the_screen(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    choose(page)
    (tmp_path / "scene.jpg").write_bytes(JPEG)
    chosen = page.locator(".bar").nth(1)
    page.get_by_text("The same request from a program").click()
    chosen.click()
    page.locator("#branch label", has_text="S").click()
    page.get_by_label("Attention").check(force=True)
    page.get_by_label("Opacity").fill("40")
    index = chosen.locator("input").input_value()
    command = copied(page, "curl, for the heat-map")
    assert command == page.get_by_role("region", name="curl, for the heat-map").inner_text()
    wanted = {"class": index, "branch": "small", "map": "attention", "opacity": "0.4"}
    asked_for = httpx.URL(command.split("'")[-2]).params
    assert {name: asked_for[name] for name in wanted} == wanted
    subprocess.run(["/bin/bash", "-c", f"{command} -s"], cwd=tmp_path, check=True)
    with Image.open(tmp_path / "heat-map.png") as drawn:
        assert drawn.format == "PNG"


# What goes wrong


def test_a_broken_file_is_told_in_sentences_and_the_others_are_classified(open_page: OpenPage) -> None:
    page = open_page()
    choose(page, picture("cut.jpg", JPEG[: len(JPEG) // 2]), picture("note.jpg", b"no picture"), picture())
    expect(page.get_by_role("alert")).to_contain_text("This picture is broken, or not quite a picture.")
    expect(page.get_by_role("alert")).to_contain_text("ends before its last pixels")
    page.locator(".strip-item").nth(1).click()
    expect(page.get_by_role("alert")).to_contain_text("not a picture that the service can read")
    page.locator(".strip-item").nth(2).click()
    assert best(page)


def test_what_the_browser_cannot_show_has_its_name_in_the_row(open_page: OpenPage) -> None:
    page = open_page()
    choose(page, picture("note.jpg", b"no picture"), picture())
    broken, good = page.locator(".strip-item").first, page.locator(".strip-item").nth(1)
    expect(broken.locator(".tile")).to_have_text("note.jpg")
    expect(broken.locator("img")).to_have_count(0)
    expect(good.locator("img")).to_be_visible()
    assert broken.locator(".tile").evaluate("tile => tile.clientHeight") == good.locator("img").evaluate(
        "image => image.clientHeight"
    )
    expect(page.get_by_role("radio", name=re.compile("^note.jpg: "))).to_be_attached()
    assert_accessible(page)


def test_a_service_that_has_stopped_is_told_and_asked_again_when_it_is_back(
    open_page: OpenPage, bundle: Path, tmp_path: Path
) -> None:
    port, options = free_port(), ("--bundle", str(bundle), "--engine", "null")
    with crossvit_serve(tmp_path / "log", *options, port=port) as server:
        server.wait_until_ready()
        page = open_page(server.url)
    choose(page)
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer. It may have been stopped")
    page.click('button[data-file="dam.jpg"]')
    expect(page.get_by_role("alert")).to_have_count(2)
    expect(page.locator("#notice-intake")).to_contain_text("could not be fetched")
    with crossvit_serve(tmp_path / "log", *options, port=port) as server:
        server.wait_until_ready()
        page.get_by_role("button", name="Try again").click()
        assert best(page)


def test_a_key_is_typed_once_and_kept_in_the_tab(open_page: OpenPage, keyed: Server) -> None:
    page = open_page(keyed.url, permissions=["clipboard-read", "clipboard-write"])
    dialog = page.get_by_role("dialog", name="This service needs a key")
    assert_accessible(page)
    dialog.get_by_label("Key").fill("wrong-key-0123")
    dialog.get_by_role("button", name="Use the key").click()
    expect(dialog).to_contain_text("does not know this key")
    dialog.get_by_label("Key").fill(KEY)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    choose(page)
    assert best(page)
    page.get_by_text("The same request from a program").click()
    assert "$CROSSVIT_API_KEY" in copied(page, "curl")
    assert KEY not in page.content()
    page.reload()
    choose(page)
    assert best(page)
    assert page.evaluate("localStorage.length") == 0
    assert KEY not in page.url


def test_without_a_key_it_is_said_what_the_service_needs(open_page: OpenPage, keyed: Server) -> None:
    page = open_page(keyed.url)
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("The service needs a key that it knows.")
    page.get_by_role("button", name="Type a key").click()
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_overload_is_told_and_asked_again_until_all_are_answered(open_page: OpenPage, keyed: Server) -> None:
    page = unlocked(open_page(keyed.url))
    choose(page, *(picture(f"{number}.jpg") for number in range(5)))
    page.locator('.strip-item[data-state="busy"]').first.click()
    expect(page.locator(".problem.busy")).to_contain_text("The service is busy.")
    expect(page.locator(".problem.busy")).to_contain_text(re.compile(r"The queue is full.*asks again in \d+ s", re.S))
    expect(page.locator('.strip-item[data-state="answered"]')).to_have_count(5, timeout=60_000)


# For everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_at_any_time(open_page: OpenPage, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    assert_accessible(page)
    choose(page, picture("cut.jpg", JPEG[:900]), picture())
    expect(page.get_by_role("alert")).to_be_visible()
    assert_accessible(page)
    page.locator(".strip-item").nth(1).click()
    assert best(page)
    page.get_by_text("The same request from a program").click()
    page.get_by_text("The answer as JSON").click()
    assert_accessible(page)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")


def test_a_phone_scrolls_one_way_only(open_page: OpenPage) -> None:
    page = open_page(**PHONE)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 360
    choose(page, *(picture(f"a-rather-long-name-of-a-picture-{number}.jpg") for number in range(6)))
    assert best(page)
    page.get_by_text("The same request from a program").click()
    assert page.evaluate(width) <= 360
    assert_accessible(page)


def test_all_of_it_works_with_the_keyboard_alone(open_page: OpenPage) -> None:
    page = open_page()

    def tab_to(condition: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(f"(focused => {condition})(document.activeElement)"):
                assert page.evaluate("document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"Tab never comes to {condition}")

    tab_to("focused.dataset.file === 'goldfish.jpg'")
    page.keyboard.press("Enter")
    expect(page.locator("#picture-name")).to_have_text("goldfish.jpg")
    expect(page.locator("#picture-name")).to_be_focused()
    first = best(page)
    tab_to("focused.dataset.file === 'dam.jpg'")
    page.keyboard.press("Space")
    expect(page.locator("#picture-name")).to_have_text("dam.jpg")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#picture-name")).to_have_text("goldfish.jpg")
    assert best(page) == first
    tab_to("focused.name === 'class'")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".bar").nth(1).locator("input")).to_be_checked()
    tab_to("focused.matches('summary')")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Copy curl", exact=True)).to_be_visible()


def test_answers_are_announced_to_those_who_listen(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    status = page.get_by_role("status")
    choose(page, picture("heard.jpg"))
    (best_class, *_) = asked(server)["predictions"]
    expect(status).to_have_text(f"heard.jpg: {best_class['label']}, {100 * best_class['score']:.0f} %.")
