"""Environment variables by the prefix of the settings: what they say, and which of them nobody reads."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

PREFIX = "CROSSVIT_"

# What a Service of Kubernetes, or a link of Docker, puts into containers: NAME_PORT is a URL there.
# Source: "Accessing the Service", Kubernetes; "Legacy container links", Docker.
_LINK = re.compile(r"(tcp|udp|sctp)://\S+:\d+", re.IGNORECASE)
_OF_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?|ENV_\w+)")
_ELSEWHERE = {"CROSSVIT_API_KEY": "the key that `crossvit bench` and `crossvit evaluate` send; the service reads"}


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables in `environ` that have the prefix, in capitals; without those that are empty or service links.

    Values are without spaces, line ends and quotes around them: secrets end with a line, and `docker --env-file` keeps
    the quotes of its file.
    """
    found = {name.upper(): _plain(value) for name, value in environ.items() if name.upper().startswith(PREFIX)}
    return {name: value for name, value in found.items() if value and not is_service_link(name, value)}


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes or Docker sets the variable `name`, for a service that is called as the prefix."""
    if name.endswith("_NAME"):
        return value.startswith("/")  # Docker: /container/alias
    return bool(_OF_LINK.fullmatch(name) or (name.endswith("_PORT") and _LINK.fullmatch(value)))


def remarks(environ: Mapping[str, str], settings: Collection[str]) -> list[str]:
    """A sentence for each variable that has the prefix and is none of `settings`, or is one and cannot be meant so."""
    said = []
    for name, value in sorted(environ.items()):
        upper = name.upper()
        if not upper.startswith(PREFIX):
            continue
        if is_service_link(upper, _plain(value)):
            if upper in settings:
                said.append(
                    f"{name}={_plain(value)[:100]} is passed over: Kubernetes or Docker sets it for a service of that "
                    "name; in Kubernetes, enableServiceLinks: false in the pod keeps it out"
                )
        elif upper not in settings:
            near = get_close_matches(upper, settings, n=1, cutoff=0.8)
            known = _ELSEWHERE.get(upper, "not a setting")
            hint = f" {near[0]}" if upper in _ELSEWHERE else f"; {near[0]} is" if near else ""
            said.append(f"{name} is {known}{hint}; `crossvit serve --help` lists the settings")
    return said


def _plain(value: str) -> str:
    value = value.strip().removeprefix("\ufeff")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1].strip()
    return value
