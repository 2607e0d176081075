"""The sockets that the service listens on."""

import errno
import logging
import socket
from dataclasses import dataclass
from typing import Any

from app.configuration.settings import Settings
from app.errors import BadParameter

log = logging.getLogger(__name__)

_BACKLOG = 2048  # connections that wait to be accepted


@dataclass(frozen=True)
class ListeningSockets:
    """The sockets of the service's ports, one for each address.

    Attributes:
        public: of the port.
        admin: of the admin port, if there is one.
        grpc: of the gRPC port, if there is one. They do not listen: they keep the port for grpc, which listens on
            sockets of its own beside them.
    """

    public: list[socket.socket]
    admin: list[socket.socket]
    grpc: list[socket.socket]

    @property
    def all(self) -> list[socket.socket]:
        return [*self.public, *self.admin]

    @property
    def admin_port(self) -> int | None:
        """The number of the admin port; the system chooses it if the setting is 0."""
        return self.admin[0].getsockname()[1] if self.admin else None

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the port."""
        return _url(self.public[0]).replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")

    @property
    def grpc_addresses(self) -> list[str]:
        """Where grpc is to listen."""
        return [_url(reserved).removeprefix("http://") for reserved in self.grpc]

    def close(self) -> None:
        """Close them in this process; other processes that have them still listen."""
        for listener in (*self.all, *self.grpc):
            listener.close()


def open_listeners(settings: Settings) -> ListeningSockets:
    """Listen on the ports of `settings`. Raises BadParameter if one cannot be bound."""
    public = listen(settings.host, settings.port, _BACKLOG)
    admin = [] if settings.admin_port is None else listen(settings.admin_host, settings.admin_port, _BACKLOG)
    grpc = [] if settings.grpc_port is None else listen(settings.host, settings.grpc_port, None)
    return ListeningSockets(public, admin, grpc)


def listen(host: str, port: int, backlog: int | None) -> list[socket.socket]:
    """Sockets that listen on every address of `host`, all with the same port number.

    Without a `backlog` they only keep the port, for sockets of this user that listen there with SO_REUSEPORT.

    "::" accepts IPv4 too. An address that this machine does not have is skipped if there is another one. BadParameter
    if none is left, or if one is in use.
    """
    name = host.removeprefix("[").removesuffix("]")
    requested = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    try:
        addresses = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as err:
        raise BadParameter(f"cannot listen on {requested}: {name!r} is not the name or address of a host") from err
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in addresses):
        number = listeners[0].getsockname()[1] if listeners else port
        try:
            listeners.append(_bound(family, (address[0], number, *address[2:]), backlog, both=name == "::"))
        except OSError as err:
            failure = err
            if err.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
        else:
            url = _url(listeners[-1])
            log.info("listening on %s", url if backlog is not None else f"{url.removeprefix('http://')} for gRPC")
    if not listeners or (failure is not None and failure.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)):
        for listener in listeners:
            listener.close()
        assert failure is not None
        raise BadParameter(f"cannot listen on {requested}: {failure.strerror}") from failure
    return listeners


def _bound(family: int, address: tuple[Any, ...], backlog: int | None, *, both: bool) -> socket.socket:
    if backlog is None and address[1]:
        _bound(family, address, 1, both=both).close()  # with SO_REUSEPORT it could be bound though another one listens
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        if backlog is None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        if backlog is not None:
            listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    address, port, *flow_and_scope = listener.getsockname()
    if listener.family != socket.AF_INET6:
        return f"http://{address}:{port}"
    zone = f"%25{socket.if_indextoname(flow_and_scope[1])}" if flow_and_scope[1] else ""  # RFC 6874
    return f"http://[{address.partition('%')[0]}{zone}]:{port}"
