"""What the page says when something goes wrong, in Chromium."""

import re
from pathlib import Path

from playwright.sync_api import expect

from tests.app.page.conftest import OpenPage
from tests.support.page_steps import JPEG, KEY, assert_accessible, best, choose, copied, picture, unlocked
from tests.support.servers import Server, crossvit_serve, free_port


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
