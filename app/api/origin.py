"""Which web pages may use the service with their visitor's browser, and by which host names it may be asked.

A browser says which page asks, in headers that no page can set: `Sec-Fetch-Site` (Fetch Metadata Request Headers, 2.2)
and `Origin` (RFC 6454, 7). `Host` tells a page whose name was pointed at this machine after it had loaded (DNS
rebinding): for its browser it is a page of the service itself.
"""

import ipaddress
import re
from collections.abc import Collection, Mapping

from app.errors import Forbidden

SAFE = ("GET", "HEAD", "OPTIONS")  # RFC 9110, 9.2.1

_OWN = ("same-origin", "none")  # Sec-Fetch-Site of the service's own page, and of what the visitor has typed
_AUTHORITY = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(:\d*)?")
_DEFAULT_PORT = re.compile(r":(80|443)?$")


class Origins:
    """Decides by a request's headers, whose names are in lower case, whether a browser may bring it.

    `pages` are origins of pages that may call, "*" for all; `hosts` are the names by which the service is asked, none
    for any; `admin_host` is one more for admin routes.
    """

    def __init__(self, pages: Collection[str], hosts: Collection[str], admin_host: str) -> None:
        self._pages = frozenset(pages)
        self._hosts = frozenset(map(str.lower, hosts))
        self._admin_hosts = self._hosts | {"localhost", admin_host.lower()}

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Forbidden if hosts are set and the request is for another one."""
        host = headers.get("host", "")
        if self._hosts and not (host.strip() and _is_one_of(host, self._hosts)):
            raise Forbidden("the Host of this request is not one that is served: add it to --allowed-hosts")

    def check_page(self, headers: Mapping[str, str]) -> None:
        """Forbidden if a page asks that is neither the service's own nor one of those that may call."""
        if is_foreign(headers) and "*" not in self._pages and headers.get("origin") not in self._pages:
            raise Forbidden(
                "a web page of another origin may not call this: --cors-origins has those that may, "
                "though none may call what is for admins"
            )

    def check_admin(self, headers: Mapping[str, str], *, by_port: bool) -> None:
        """Forbidden if any other page asks for what is for admins.

        Where the port alone makes an admin, `by_port`, also for a host that is neither an IP address nor localhost, nor
        one of those that are set.
        """
        if is_foreign(headers):
            raise Forbidden("a web page of another origin may not call what is for admins")
        host = headers.get("host", "")
        if by_port and not (_is_address(host) or _is_one_of(host, self._admin_hosts)):
            raise Forbidden(
                "without admin keys the admin port is asked by an IP address or as localhost: "
                "add the Host of this request to --allowed-hosts, or set admin keys"
            )


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a web page of another origin than the request's own host asks."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site.strip().lower() not in _OWN
    origin = headers.get("origin")
    if origin is None:
        return False
    _, scheme, authority = origin.lower().partition("://")
    return not scheme or _without_port(authority) != _without_port(headers.get("host", "").lower())


def _without_port(authority: str) -> str:
    """Without a port that is its scheme's own: the service does not know which scheme a proxy speaks."""
    return _DEFAULT_PORT.sub("", authority.strip())


def _name(host: str) -> str:
    match = _AUTHORITY.fullmatch(host.strip())
    return "" if match is None else match["name"].lower().rstrip(".")


def _is_one_of(host: str, names: Collection[str]) -> bool:
    """Whether the header `host` has one of `names`, which may have a port. No browser leaves the header out."""
    return not host or _name(host) in names or host.strip().lower() in names


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(_name(host).strip("[]"))
    except ValueError:
        return False
    return True
