"""What the parent tells an instance at its start."""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from app.server.listening_sockets import ListeningSockets


@dataclass(frozen=True)
class Assignment:
    """An instance's part of the service; the files are open ones that it inherits.

    Attributes:
        number: of the instance, from 0 on.
        instances: how many there are.
        cpus: that it runs on; empty for all that the parent has.
        accepts: whether it accepts connections before it is ready, since no other instance is.
        unloaded: models that were unloaded, and that it does not load.
        control: the socket to the parent.
        public: the listening sockets of the port.
        admin: those of the admin port.
        grpc: the sockets that keep the gRPC port.
    """

    number: int
    instances: int
    cpus: Sequence[int]
    accepts: bool
    unloaded: Sequence[str]
    control: int
    public: Sequence[int]
    admin: Sequence[int]
    grpc: Sequence[int]

    @classmethod
    def from_json(cls, text: str) -> "Assignment":
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def files(self) -> list[int]:
        """The open files that the instance inherits."""
        return [self.control, *self.public, *self.admin, *self.grpc]

    def pin(self) -> None:
        """Run this process, and those that it starts, on the assigned CPUs."""
        if self.cpus:
            os.sched_setaffinity(0, self.cpus)

    def connection(self) -> socket.socket:
        """The inherited socket to the parent."""
        return socket.socket(fileno=self.control)

    def listeners(self) -> ListeningSockets:
        """The inherited sockets."""
        public, admin, grpc = (
            [socket.socket(fileno=file) for file in files] for files in (self.public, self.admin, self.grpc)
        )
        return ListeningSockets(public, admin, grpc)
