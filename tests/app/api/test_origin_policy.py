import pytest

from app.api.origin_policy import OriginPolicy, is_cross_origin
from app.errors import Forbidden

PAGE = "https://page.example"
HOST = {"host": "api.example.org"}
OWN_PAGES: list[dict[str, str]] = [
    {},  # no browser
    {"sec-fetch-site": "same-origin", "origin": "https://behind-a-proxy.example"},
    {"sec-fetch-site": "none"},
    {"origin": "https://api.example.org"},
    {"origin": "http://API.example.org:80"},
    {"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000"},
    {"origin": "http://[::1]:8000", "host": "[::1]:8000"},
    {"origin": "https://api.example.org:8443", "host": "api.example.org:8443"},
]
OTHER_PAGES: list[dict[str, str]] = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site", "origin": "https://api.example.org"},
    {"sec-fetch-site": "Cross-Site", "origin": PAGE},
    {"sec-fetch-site": ""},
    {"sec-fetch-site": "what comes later"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": PAGE},
    {"origin": "https://api.example.org.evil.example"},
    {"origin": "https://evil.example", "host": "127.0.0.1:8000"},
    {"origin": "http://127.0.0.1:3000", "host": "127.0.0.1:8000"},
    {"origin": "http://localhost:8000", "host": "127.0.0.1:8000"},
    {"origin": "file://"},
    {"origin": "chrome-extension://abcdef"},
    {"origin": "api.example.org"},
]


def refused(origins: OriginPolicy, headers: dict[str, str], *, by_port: bool | None = None) -> bool:
    """Whether a page is refused, or with `by_port` what is for admins."""
    try:
        origins.check_host(headers)
        if by_port is None:
            origins.check_page(headers)
        else:
            origins.check_admin(headers, by_port=by_port)
    except Forbidden:
        return True
    return False


def test_only_the_services_own_page_and_no_browser_may_call() -> None:
    origins = OriginPolicy([], [], "127.0.0.1")
    assert [headers for headers in OWN_PAGES if is_cross_origin(HOST | headers)] == []
    assert [headers for headers in OTHER_PAGES if not is_cross_origin(HOST | headers)] == []
    assert not any(refused(origins, HOST | headers) for headers in OWN_PAGES)
    assert all(refused(origins, HOST | headers) for headers in OTHER_PAGES)


def test_pages_that_are_set_may_call_but_nothing_that_is_for_admins() -> None:
    for pages in ([PAGE], ["*"]):
        origins = OriginPolicy(pages, [], "127.0.0.1")
        for headers in ({"origin": PAGE}, {"origin": PAGE, "sec-fetch-site": "cross-site"}):
            assert not refused(origins, HOST | headers)
            assert refused(origins, HOST | headers, by_port=False)
    assert refused(OriginPolicy([PAGE], [], ""), HOST | {"origin": "https://page.example.evil"})
    assert not refused(OriginPolicy(["*"], [], ""), HOST | {"origin": "null"})


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:9000", True),
        ("10.1.2.3", True),
        ("[::1]:9000", True),
        ("[fe80::1]", True),
        ("localhost:9000", True),
        ("LOCALHOST", True),
        ("localhost.:9000", True),
        ("admin.internal:9000", True),
        ("service.example", True),
        ("", True),
        ("evil.example", False),
        ("evil.example:9000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("evil", False),
        ("127.0.0.1@evil.example", False),
        ("[::1].evil.example", False),
        ("a b", False),
    ],
)
def test_without_admin_keys_the_admin_port_is_asked_by_names_that_no_page_can_have(host: str, allowed: bool) -> None:
    origins = OriginPolicy([], [], "admin.internal")
    with_names = OriginPolicy([], ["service.example", "127.0.0.1", "10.1.2.3", "localhost"], "admin.internal")
    if host == "service.example":
        assert refused(origins, {"host": host}, by_port=True)
        assert not refused(with_names, {"host": host}, by_port=True)
    else:
        assert refused(origins, {"host": host}, by_port=True) != allowed
    assert not refused(origins, {"host": host}, by_port=False)  # a key is asked for


def test_no_page_is_told_of_a_setting_that_would_not_help_it() -> None:
    with pytest.raises(Forbidden, match="add its origin to --cors-origins"):
        OriginPolicy([], [], "127.0.0.1").check_page(HOST | {"origin": PAGE})


def test_the_hosts_that_are_set_are_the_only_ones() -> None:
    origins = OriginPolicy([], ["api.example.org", "Other.example:8443"], "127.0.0.1")
    for host in ("api.example.org", "API.EXAMPLE.ORG.:8000", "other.example:8443"):
        assert not refused(origins, {"host": host})
    assert refused(origins, {})
    assert not refused(OriginPolicy([], [], "127.0.0.1"), {})
    for host in ("", " ", "127.0.0.1", "evil.example", "other.example", "api.example.org.evil.example"):
        assert refused(origins, {"host": host})
