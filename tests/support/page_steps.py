"""What a person does on the page, and what it shows, for tests in a browser."""

from typing import Any

import httpx
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import FilePayload, Page

from tests.support.pictures import encoded, scene
from tests.support.servers import Server

KEY = "key-of-the-page-0123"
JPEG = encoded(scene(320, 240, seed=1), "JPEG", quality=85)
_RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def picture(name: str = "scene.jpg", body: bytes = JPEG) -> FilePayload:
    """A file as the browser's dialog would give it."""
    return {"name": name, "mimeType": "image/jpeg", "buffer": body}


def choose(page: Page, *files: FilePayload) -> None:
    page.set_input_files("#choose", list(files) or [picture()])


def unlocked(page: Page) -> Page:
    """The page of a server that needs KEY, with it typed."""
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
    found = Axe().run(page, options=_RULES)
    assert found.violations_count == 0, found.generate_report()


def copied(page: Page, name: str) -> str:
    page.get_by_role("button", name=f"Copy {name}", exact=True).click()
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text
