"""The head of a request, without a connection."""

from http import HTTPStatus

import pytest

from app.server.request_head import RequestHead, RequestRefused


def head(target: bytes, *fields: tuple[bytes, bytes]) -> RequestHead:
    made = RequestHead()
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
    with pytest.raises(RequestRefused, match=coding.decode()) as refused:
        head(b"/", (b"Transfer-Encoding", coding)).scope("POST", "1.1")
    assert refused.value.status == status


def test_trailers_count_as_header_fields_and_are_not_kept() -> None:
    made = head(b"/", *50 * [(b"a", b"b")])
    for _ in range(50):
        made.add_field(b"c", b"d", trailer=True)
    assert len(made.fields) == 50
    with pytest.raises(RequestRefused, match="more than 100 header fields"):
        made.add_field(b"c", b"d", trailer=True)


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b"service", b"service:80", b"service:", b"a_b.example.", b"192.0.2.1:80", b"xn--bcher-kva.example"),
        *(b"[::1]", b"[::1]:80", b"[fe80::1%25eth0]:80", b"[fe80::1%eth0]", b"[v7.x]", b"a%20b", b" service\t"),
    ],
)
def test_a_host_is_a_name_or_an_address_or_empty(host: bytes) -> None:
    for version in ("1.0", "1.1"):
        assert head(b"/x", (b"Host", host)).scope("GET", version)["path"] == "/x"


@pytest.mark.parametrize(
    "host",
    [
        *(b"a b", b"a/b", b"a b/c", b"http://a", b"user@a", b"a:b", b"a:80:80", b"::1", b"[::1", b"[::1]x", b"[]"),
        *(b"a?b", b"a#b", b"a, b", b"\xc3\xa4.example", b"a%2", b"a\\b", b'"a"', b"<a>"),
    ],
)
def test_an_invalid_host_is_refused_and_named(host: bytes) -> None:
    for version in ("1.0", "1.1"):
        with pytest.raises(RequestRefused, match="is not a name or an address") as refused:
            head(b"http://there/x", (b"Host", host)).scope("GET", version)
        assert repr(host.decode("latin-1")) in refused.value.detail
        assert refused.value.status == HTTPStatus.BAD_REQUEST


def test_a_request_has_one_host_but_for_http_1_0_which_needs_none() -> None:
    assert head(b"/x").scope("GET", "1.0")["path"] == "/x"
    for version, hosts, said in (
        ("1.1", [], "no Host field"),
        ("1.1", [b"a", b"a"], "2 Host fields, 'a' and 'a'"),
        ("1.0", [b"a", b"b"], "2 Host fields, 'a' and 'b'"),
    ):
        with pytest.raises(RequestRefused, match=said) as refused:
            head(b"http://there/x", *((b"Host", host) for host in hosts)).scope("GET", version)
        assert refused.value.status == HTTPStatus.BAD_REQUEST
