"""Checks of answers to generated requests, and the words that these are made of."""

import httpx
from hypothesis import strategies as st


def assert_answered(response: httpx.Response) -> None:
    """A success, or a refusal that says why, and says it in JSON."""
    assert response.status_code < 500, (response.status_code, response.text)
    assert "Traceback" not in response.text
    if response.status_code < 400:
        return
    answer = response.json()
    if response.request.url.raw_path.startswith(b"/v2"):
        assert answer["error"]
    elif response.request.url.raw_path.startswith(b"/v1/"):
        assert answer["error"]["message"]
    else:
        assert response.headers["Content-Type"] == "application/problem+json"
        assert answer["status"] == response.status_code
        assert answer["detail"]


words = st.sampled_from(["file", "files", "image", "", "a", "ä", "x" * 300, "\0", '"', "%22", "../../a", "a;b=c"])
