"""The results of a contest, kept in one JSON file: what took part, and what each round gave."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass
class Entry:
    """A contestant with one network at one side.

    `first_seconds` are those of the first call of each batch size together: compiling is in them. `peak` is the rate of
    bfloat16 matrix products beside it, in 1e12 FLOP/s. `error` says why it was of no more use.
    """

    network: str
    side: int
    contestant: str
    title: str
    note: str = ""
    error: str = ""
    load_seconds: float = 0.0
    first_seconds: float = 0.0
    memory_mb: float | None = None
    agreement: float | None = None
    worst_difference: float | None = None
    peak: float | None = None


@dataclass
class Calls:
    """A round of calls of `batch` images: seconds from the host's pixels to the host's logits."""

    network: str
    side: int
    contestant: str
    batch: int
    round: int
    seconds: list[float]


@dataclass
class Service:
    """A service with one network; `error` says why it was of no more use. Memory is that after the load."""

    network: str
    service: str
    title: str
    error: str = ""
    proportional_mb: float | None = None
    resident_mb: float | None = None


@dataclass
class LoadRound:
    """A round in which `clients` asked, each again when it had its answer; or requests were due at a fixed `rate`.

    `milliseconds` are those of the good answers, from when a request was due; `seconds` ends with the last answer.
    """

    network: str
    service: str
    clients: int | None
    rate: float | None
    round: int
    seconds: float
    milliseconds: list[float]
    errors: int
    client_cores: float


@dataclass
class Results:
    """`runs` say with which command, on what, with which weights and how it was measured."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    calls: list[Calls] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    loads: list[LoadRound] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What earlier runs have left in `path`, if anything. ValueError if that was another version of this."""
        found = json.loads(path.read_text()) if path.exists() else {}
        kinds = {"entries": Entry, "calls": Calls, "services": Service, "loads": LoadRound}
        try:
            rows = {name: [kind(**row) for row in found.get(name, [])] for name, kind in kinds.items()}
            return cls(found.get("runs", []), **rows)
        except (AttributeError, TypeError) as err:
            raise ValueError(f"{path} was written by another version; remove it") from err

    def forget(self, network: str, names: Sequence[str], side: int | None = None) -> None:
        """Let go of earlier rounds of these contestants at `side`, or of these services."""
        if side is not None:
            here = [(network, side, name) for name in names]
            self.entries = [row for row in self.entries if (row.network, row.side, row.contestant) not in here]
            self.calls = [row for row in self.calls if (row.network, row.side, row.contestant) not in here]
        else:
            of = [(network, name) for name in names]
            self.services = [row for row in self.services if (row.network, row.service) not in of]
            self.loads = [row for row in self.loads if (row.network, row.service) not in of]

    def save(self, path: Path) -> None:
        """The file is whole at any time."""
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(json.dumps(asdict(self)))
        beside.replace(path)
