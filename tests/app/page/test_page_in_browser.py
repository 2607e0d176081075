"""The page in Chromium, at real servers: every way in, and for everybody."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.app.page.conftest import CAUTION, OpenPage
from tests.support.page_steps import JPEG, asked, assert_accessible, best, choose, picture, transfer, unlocked
from tests.support.pictures import encoded, scene
from tests.support.servers import Server

STATIC = Path(__file__).parents[3] / "app" / "page" / "static"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


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
