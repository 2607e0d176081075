"""Checks the head of a request, as the parser delivers it, and refuses invalid ones (RFC 9110, RFC 9112)."""

import re
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools

MAX_FIELDS_BYTES = 64 * 1024  # names and values, of header fields and trailers
MAX_FIELDS = 100  # header fields and trailers
MAX_TARGET_BYTES = 8 * 1024

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}(?= )")
# RFC 3986, 3.2.2 and 3.2.3; some clients also send the zone of an IPv6 address
_HOST = re.compile(rb"(\[[\w.~:%-]+\]|([\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(:\d*)?")
_TLS_HANDSHAKE = b"\x16"  # the type of the first record (RFC 8446, 5.1)
_PROXY_PROTOCOLS = (b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n")  # versions 1 and 2


class RequestRefused(Exception):
    """A request that the connection itself answers; bytes after it are not read."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class RequestHead:
    """A request's target and header fields as they arrive. Raises RequestRefused as soon as they exceed a limit."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []  # names in lower case
        self._count = 0
        self._size = 0

    def add_target(self, piece: bytes) -> None:
        self.target += piece
        if len(self.target) > MAX_TARGET_BYTES:
            raise RequestRefused(
                HTTPStatus.REQUEST_URI_TOO_LONG, f"the request target is over {MAX_TARGET_BYTES:,} bytes"
            )

    def add_field(self, name: bytes, value: bytes, *, trailer: bool) -> None:
        """Count a field and keep it; a trailer is only counted, since nothing uses it."""
        self._count += 1
        self._size += len(name) + len(value)
        if self._count > MAX_FIELDS:
            raise RequestRefused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request has more than {MAX_FIELDS} header fields"
            )
        if self._size > MAX_FIELDS_BYTES:
            raise RequestRefused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request's headers are over {MAX_FIELDS_BYTES:,} bytes"
            )
        if not trailer:
            self.fields.append((name.lower(), value))

    def values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.fields if known == name]

    def without_upgrade(self, method: bytes, version: str) -> bytes:
        """The head without its Upgrade field, which a server may ignore (RFC 9110, 7.8)."""
        lines = [b"%s %s HTTP/%s" % (method, self.target, version.encode())]
        lines += [b"%s: %s" % field for field in self.fields if field[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def scope(self, method: str, version: str) -> dict[str, Any]:
        """The request's part of an ASGI scope. Raises RequestRefused for an invalid or unsupported head."""
        _check_version(version)
        self._check_transfer_coding()
        if version != "1.0":  # HTTP/1.0 has no expectations (RFC 9110, 10.1.1)
            self._check_expectation()
        self._check_host(version)
        path, query = self._target(method)
        return {
            "method": method,
            "http_version": version,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "headers": self.fields,
        }

    @property
    def has_length(self) -> bool:
        """Whether the request declares a body, even an empty one (RFC 9112, 6.3)."""
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.fields)

    @property
    def expects_continue(self) -> bool:
        return any(value.lower() == b"100-continue" for value in self.values(b"expect"))

    def _check_transfer_coding(self) -> None:
        """RFC 9112, 6.1 and 6.3."""
        coding = b", ".join(self.values(b"transfer-encoding")).strip().lower()
        if not coding or coding == b"chunked":
            return
        last = coding.rpartition(b",")[2].strip()
        twice = coding.split(b",").count(b"chunked") > 1
        status = HTTPStatus.NOT_IMPLEMENTED if last == b"chunked" and not twice else HTTPStatus.BAD_REQUEST
        raise RequestRefused(
            status, f"the transfer coding {_shown(coding)} is not supported: send chunked, or a Content-Length"
        )

    def _check_expectation(self) -> None:
        for value in self.values(b"expect"):
            if value.strip().lower() not in (b"", b"100-continue"):
                raise RequestRefused(
                    HTTPStatus.EXPECTATION_FAILED, f"the expectation {_shown(value)} is not supported: 100-continue is"
                )

    def _check_host(self, version: str) -> None:
        """RFC 9112, 3.2."""
        hosts = self.values(b"host")
        if not hosts and version != "1.0":
            raise RequestRefused(
                HTTPStatus.BAD_REQUEST,
                "the request has no Host field, which HTTP/1.1 requires: send the service's name or address in it, "
                "or an empty one ('Host:')",
            )
        if len(hosts) > 1:
            shown = " and ".join(map(_shown, hosts[:2]))
            raise RequestRefused(HTTPStatus.BAD_REQUEST, f"the request has {len(hosts)} Host fields, {shown}: send one")
        if hosts and not _HOST.fullmatch(hosts[0].strip()):
            detail = f"the Host {_shown(hosts[0])} is not a name or an address, with or without a port"
            raise RequestRefused(HTTPStatus.BAD_REQUEST, detail)

    def _target(self, method: str) -> tuple[bytes, bytes]:
        """The path and the query of the target, in any form of RFC 9112, 3.2."""
        if self.target == b"*" and method == "OPTIONS":
            return b"*", b""
        try:
            url = httptools.parse_url(self.target)
        except httptools.HttpParserInvalidURLError:
            url = None
        if url is None or not (url.path or url.host) or self.target == b"*":
            raise RequestRefused(
                HTTPStatus.BAD_REQUEST, f"the request target {_shown(self.target)} is not a path or a URL"
            )
        if url.schema is not None:
            self._set_host(url)
        return url.path or b"/", url.query or b""

    def _set_host(self, url: Any) -> None:
        """Set the Host field to the host of a target that is a whole URL: it takes precedence (RFC 9112, 3.2.2)."""
        if url.schema.lower() not in (b"http", b"https"):
            raise RequestRefused(
                HTTPStatus.BAD_REQUEST, f"the request target {_shown(self.target)} is not a URL of http or https"
            )
        host = b"[%s]" % url.host if b":" in url.host else url.host
        host += b":%d" % url.port if url.port else b""
        self.fields[:] = [(b"host", host), *(field for field in self.fields if field[0] != b"host")]


def explain_parse_error(err: Exception, first_bytes: bytes) -> RequestRefused:
    """The likely reason why the parser stopped with `err` in a request that begins with `first_bytes`."""
    request_line = first_bytes.lstrip(b"\r\n")
    if first_bytes.startswith(_TLS_HANDSHAKE):
        detail = "this port speaks plain HTTP and received a TLS handshake: use http://, or a proxy that does TLS"
        return RequestRefused(HTTPStatus.BAD_REQUEST, detail)
    if first_bytes.startswith(_PROXY_PROTOCOLS):
        detail = "the PROXY protocol is not supported: turn it off at the load balancer"
        return RequestRefused(HTTPStatus.BAD_REQUEST, detail)
    if request_line.startswith(b"PRI * HTTP/2"):
        return RequestRefused(
            HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
            "HTTP/2 is not supported: send HTTP/1.1, directly or through a proxy; gRPC has its own port, --grpc-port",
        )
    if isinstance(err, httptools.HttpParserInvalidMethodError) and (method := _METHOD.match(request_line)):
        detail = f"the method {_shown(method[0])} is not supported; methods are written in capital letters"
        return RequestRefused(HTTPStatus.NOT_IMPLEMENTED, detail)
    if isinstance(err, httptools.HttpParserInvalidURLError):
        detail = f"the request target is invalid ({_quoted(err)}): write spaces and characters beyond ASCII as %XX"
        return RequestRefused(HTTPStatus.BAD_REQUEST, detail)
    version = str(err) == "Invalid HTTP version"
    status = HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if version else HTTPStatus.BAD_REQUEST
    return RequestRefused(status, f"this is not valid HTTP/1.1 ({_quoted(err)})")


def missing_length() -> RequestRefused:
    """The refusal of bytes after a POST without a length that are not a request (RFC 9110, 15.5.12)."""
    detail = (
        "the request has neither Content-Length nor Transfer-Encoding, hence no body, but bytes that are not a request "
        "follow it: send Content-Length"
    )
    return RequestRefused(HTTPStatus.LENGTH_REQUIRED, detail)


def _check_version(version: str) -> None:
    if version not in ("1.0", "1.1"):
        raise RequestRefused(
            HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{version} is not supported: send HTTP/1.1, or HTTP/1.0"
        )


def _shown(value: bytes) -> str:
    return repr(value[:60].decode("latin-1"))


def _quoted(err: Exception) -> str:
    return f"the parser says {str(err)!r}"
