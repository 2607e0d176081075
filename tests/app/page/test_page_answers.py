"""What the page says of an answer, and the same request for a program, in Chromium."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.app.page.conftest import OpenPage
from tests.support.calibrations import calibrate_bundle, made_calibration, made_cascade
from tests.support.page_steps import JPEG, asked, best, choose, copied, picture
from tests.support.servers import Server, crossvit_serve

ODD_NAME = """it's "one" $(touch made); type=text, ü.jpg"""


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


@pytest.mark.parametrize(("threshold", "step", "seen"), [(0.0, 1, 224), (1.0, 2, 384)])
def test_a_cascade_is_offered_as_a_resolution(
    open_page: OpenPage, bundle: Path, tmp_path: Path, threshold: float, step: int, seen: int
) -> None:
    calibrated = Path(shutil.copytree(bundle, tmp_path / "calibrated"))
    calibrate_bundle(calibrated, made_calibration(calibrated), cascade=made_cascade(calibrated, threshold))
    with crossvit_serve(tmp_path / "log", "--bundle", str(calibrated), "--engine", "null") as server:
        server.wait_until_ready()
        page = open_page(server.url, permissions=["clipboard-read", "clipboard-write"])
        page.get_by_label("Resolution").select_option("auto")
        choose(page)
        assert best(page)
        expect(page.locator(".words")).to_contain_text(f"Answered by step {step} of 2 of a cascade.")
        expect(page.get_by_label("Set")).to_be_hidden()
        page.get_by_text("The same request from a program").click()
        assert "resolution=auto" in copied(page, "curl")
        assert f"resolution={seen}" in copied(page, "curl, for the heat-map")  # /explain knows no resolution=auto


# The same request from a program


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
