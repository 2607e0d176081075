"""The head of a request, without a connection."""

from http import HTTPStatus

import pytest

from app.head import Head, Refused


def head(target: bytes, *fields: tuple[bytes, bytes]) -> Head:
    made = Head()
    made.add_target(target)
    for name, value in fields:
        made.add_field(name, value, trailer=False)
    return made


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"/classify?top_k=2", "/classify", b"top_k=2", b"given"),
        (b"/a%20b", "/a b", b"", b"given"),
        (b"http://there/classify?a", "/classify", b"a", b"there"),
        (b"http://there:81", "/", b"", b"there:81"),
        (b"HTTPS://[::1]:81/x", "/x", b"", b"[::1]:81"),
        (b"//there/x", "//there/x", b"", b"given"),
    ],
)
def test_the_host_of_a_whole_url_counts_and_its_path_is_the_path(
    target: bytes, path: str, query: bytes, host: bytes
) -> None:
    scope = head(target, (b"Host", b"given"), (b"Accept", b"*/*")).scope("GET", "1.1")
    assert (scope["path"], scope["query_string"]) == (path, query)
    assert sorted(scope["headers"]) == [(b"accept", b"*/*"), (b"host", host)]


def test_a_head_without_its_upgrade_is_as_it_was_otherwise() -> None:
    fields = [(b"Host", b"h"), (b"UPGRADE", b"h2c"), (b"Connection", b"close, Upgrade"), (b"X", b"\xff")]
    assert head(b"/x?y", *fields).without_upgrade(b"POST", "1.1") == (
        b"POST /x?y HTTP/1.1\r\nhost: h\r\nconnection: close, Upgrade\r\nx: \xff\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("coding", "status"),
    [
        (b"gzip, chunked", HTTPStatus.NOT_IMPLEMENTED),
        (b"chunked, gzip", HTTPStatus.BAD_REQUEST),
        (b"deflate", HTTPStatus.BAD_REQUEST),
        (b"chunked;q=1", HTTPStatus.BAD_REQUEST),
    ],
)
def test_a_transfer_coding_that_is_not_known_is_named(coding: bytes, status: HTTPStatus) -> None:
    with pytest.raises(Refused, match=coding.decode()) as refused:
        head(b"/", (b"Transfer-Encoding", coding)).scope("POST", "1.1")
    assert refused.value.status == status


def test_trailers_count_and_are_not_kept() -> None:
    made = head(b"/", *50 * [(b"a", b"b")])
    for _ in range(50):
        made.add_field(b"c", b"d", trailer=True)
    assert len(made.fields) == 50
    with pytest.raises(Refused, match="more than 100 header fields"):
        made.add_field(b"c", b"d", trailer=True)
