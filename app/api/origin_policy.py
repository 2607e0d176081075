"""Which web pages may use the service through a visitor's browser, and by which host names it may be asked.

A browser names the page that asks in headers that the page cannot set: `Sec-Fetch-Site` (Fetch Metadata Request
Headers, 2.2) and `Origin` (RFC 6454, 7). In DNS rebinding a page's name is pointed at this machine after the page has
loaded: its browser then treats it as a page of the service itself, and only `Host` shows the page's name.
"""

import ipaddress
import re
from collections.abc import Collection, Mapping

from app.errors import Forbidden

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # RFC 9110, 9.2.1

_OWN_SITES = ("same-origin", "none")  # Sec-Fetch-Site of the service's own page, and of an address that was typed
_AUTHORITY = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(:\d*)?")
_DEFAULT_PORT = re.compile(r":(80|443)?$")


class OriginPolicy:
    """Decides by a request's headers, with names in lower case, whether a browser may send it.

    Args:
        pages: origins of web pages that may call the service, "*" for all.
        hosts: host names by which it may be asked; all if empty.
        admin_host: one more host name for admin routes.
    """

    def __init__(self, pages: Collection[str], hosts: Collection[str], admin_host: str) -> None:
        self._pages = frozenset(pages)
        self._hosts = frozenset(map(str.lower, hosts))
        self._admin_hosts = self._hosts | {"localhost", admin_host.lower()}

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Raise Forbidden if hosts are set and the request is for another one."""
        host = headers.get("host", "")
        if self._hosts and not (host.strip() and _is_one_of(host, self._hosts)):
            raise Forbidden("the Host of this request is not allowed: add it to --allowed-hosts")

    def check_page(self, headers: Mapping[str, str]) -> None:
        """Raise Forbidden for a page of another origin, unless it is one of `pages`."""
        if is_cross_origin(headers) and "*" not in self._pages and headers.get("origin") not in self._pages:
            raise Forbidden(
                "a web page of another origin may not call this: add its origin to --cors-origins "
                "(admin routes stay closed to it)"
            )

    def check_admin(self, headers: Mapping[str, str], *, by_port: bool) -> None:
        """Raise Forbidden for an admin request of a page of another origin.

        With `by_port`, where the port itself grants admin access, also for a host that is neither an IP address nor
        localhost, `admin_host` or one of `hosts`.
        """
        if is_cross_origin(headers):
            raise Forbidden("a web page of another origin may not call admin routes")
        host = headers.get("host", "")
        if by_port and not (_is_address(host) or _is_one_of(host, self._admin_hosts)):
            raise Forbidden(
                "without admin keys the admin port must be asked by an IP address or as localhost: "
                "add the Host of this request to --allowed-hosts, or set admin keys"
            )


def is_cross_origin(headers: Mapping[str, str]) -> bool:
    """Whether the request comes from a web page of another origin than its own host."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site.strip().lower() not in _OWN_SITES
    origin = headers.get("origin")
    if origin is None:
        return False
    _, scheme, authority = origin.lower().partition("://")
    return not scheme or _without_port(authority) != _without_port(headers.get("host", "").lower())


def _without_port(authority: str) -> str:
    """`authority` without a default port: the service does not know which scheme a proxy uses."""
    return _DEFAULT_PORT.sub("", authority.strip())


def _name(host: str) -> str:
    match = _AUTHORITY.fullmatch(host.strip())
    return "" if match is None else match["name"].lower().rstrip(".")


def _is_one_of(host: str, names: Collection[str]) -> bool:
    """Whether the header `host` is one of `names`, which may have a port. A browser always sends the header."""
    return not host or _name(host) in names or host.strip().lower() in names


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(_name(host).strip("[]"))
    except ValueError:
        return False
    return True
