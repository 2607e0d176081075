"""Answers of a worker that an image has taken over, by the byte."""

import json
import os
import socket
import threading
from typing import Any, cast

from app import errors
from app.errors import BadImage
from app.processes.process_start import StartedProcess
from app.processes.worker import Worker

ANSWER: dict[str, Any] = {"arrays": [], "log": [], "values": []}
BYTE = {"dtype": "|u1", "shape": [1]}


def message(head: Any, rest: bytes = b"") -> bytes:
    encoded = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(encoded).to_bytes(4, "big") + encoded + rest


def arrays(*described: Any) -> bytes:
    return message(ANSWER | {"arrays": [*described]}, bytes(100))


def logged(*records: Any) -> bytes:
    return message(ANSWER | {"log": [*records]})


def invalid_answers() -> dict[str, bytes]:
    """Invalid answers, by what is wrong with them."""
    odd: list[Any] = [None, True, 0, -1, 1.5, 1e400, "x", [], [[]], {}, {"a": 1}, "\ud800", 10**30]
    found = {
        "deep": message(b"[" * 900_000),
        "deep in values": message(b'{"arrays":[],"log":[],"values":' + b"[" * 400_000 + b"]" * 400_000 + b"}"),
        "deep objects": message(b'{"a":' * 150_000),
        "no length": b"\0\0",
        "endless": b"\xff\xff\xff\xff" + bytes(1000),
        "longer than it may be": ((1 << 20) + 1).to_bytes(4, "big") + bytes(2000),
        "empty": message(b""),
        "no text": message(b"\xff\xfe\x00"),
        "control characters": message(b'{"arrays":[],"log":[],"values":["\x00"]}'),
        "a long number": message(b'{"arrays":[],"log":[],"values":[]} ' + b"9" * 10_000),
        "twice": message(b'{"arrays":[],"log":[],"values":[]}{}'),
        "nothing in it": message({}),
        "values and an error": message(ANSWER | {"error": "BadImage", "message": ""}),
        "neither": message({"arrays": [], "log": []}),
        "more than is known": message(ANSWER | {"retry_after": 10**9}),
        "three arrays of a gibibyte": arrays(*[{"dtype": "|u1", "shape": [1 << 30]}] * 3),
        "many arrays": arrays(*[{"dtype": "|u1", "shape": [0]}] * 20_000),
        "arrays of which all are too large": arrays(*[{"dtype": "|u1", "shape": [101]}] * 10),
        "huge dimensions": arrays({"dtype": "|u1", "shape": [1 << 39] * 8}),
        "huge dimensions of nothing": arrays({"dtype": "|u1", "shape": [0, 1 << 39, 1 << 39]}),
        "many dimensions": arrays({"dtype": "|u1", "shape": [1] * 100}),
        "an array that ends early": message(ANSWER | {"arrays": [{"dtype": "|u1", "shape": [100]}]}, b"x"),
        "many records": logged(*[[20, "x"]] * 60),
        "a long record": logged([20, "x" * 3000]),
        "a record of three": logged([20, "x", "y"]),
        "an unknown error": message({"arrays": [], "log": [], "error": "Path", "message": ""}),
        "a long message": message({"arrays": [], "log": [], "error": "BadImage", "message": "x" * 20_000}),
    }
    for number, value in enumerate(odd):
        found |= {f"{number} for the head": message(value)}
        found |= {f"{number} for {key}": message(ANSWER | {key: value}) for key in ("arrays", "log") if value != []}
        found |= {
            f"{number} for values": message(ANSWER | {"values": value}) for _ in [0] if not isinstance(value, list)
        }
        found |= {f"{number} for an array": arrays(value), f"{number} for a record": logged(value)}
        found |= {f"{number} for a dtype": arrays(BYTE | {"dtype": value})}
        found |= {f"{number} for a shape": arrays(BYTE | {"shape": value}) for _ in [0] if value != []}
        found |= {f"{number} for a length": arrays(BYTE | {"shape": [value]}) for _ in [0] if value != 0}
        found |= {f"{number} for a level": logged([value, "x"]) for _ in [0] if value != 0}
        found |= {f"{number} for what is logged": logged([20, value]) for _ in [0] if value != "x"}
        error = {"arrays": [], "log": [], "error": "BadImage", "message": "x"}
        found |= {f"{number} for an error": message(error | {"error": value})}
        found |= {f"{number} for a message": message(error | {"message": value}) for _ in [0] if value != "x"}
    for dtype in ("|O8", "|V8", "|S8", "<U8", "<M8", "<c8", "|u3", "<f1", "|b1", "u1,f4", "<u8\n", "🙂", "<f16"):
        found[f"the dtype {dtype!r}"] = arrays(BYTE | {"dtype": dtype})
    services = [name for name, kind in vars(errors).items() if isinstance(kind, type) and kind is not BadImage]
    for name in [*services, "__builtins__", "__name__", "SystemExit", "KeyboardInterrupt"]:
        found[f"the error {name}"] = message({"arrays": [], "log": [], "error": name, "message": "x"})
    return found


def fake_worker(connection: socket.socket) -> Worker:
    """A worker whose process is whatever writes to the other end of `connection`."""
    worker = Worker.__new__(Worker)
    started = StartedProcess(cast(Any, _Ended()), connection, os.open(os.devnull, os.O_RDONLY))
    worker.__dict__ |= {"_role": "fake", "_started": started, "_closing": threading.Lock()}
    return worker


class _Ended:
    """Stands in for the process of a worker whose answers a test writes."""

    returncode, pid = 1, 0

    def kill(self) -> None: ...
    def poll(self) -> int:
        return 1

    def send_signal(self, _: int) -> None: ...
    def wait(self, _: float | None = None) -> int:
        return 1
