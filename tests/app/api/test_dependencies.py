import pytest
from starlette.requests import Request

from app.api.dependencies import caller_id


@pytest.mark.parametrize(
    ("name", "address", "expected"),
    [
        ("ann", "192.0.2.7", "key ann"),
        ("", "192.0.2.7", "192.0.2.7"),
        ("", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", "2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("", "fe80::1%eth0", "fe80::/64"),
        ("", "", ""),
    ],
)
def test_whose_share_a_request_takes(name: str, address: str, expected: str) -> None:
    request = Request({"type": "http", "client": (address, 1), "state": {"caller": name}})
    assert caller_id(request) == expected
