"""Environment variables with the prefix of the settings: their values, and warnings about those that nobody reads."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

PREFIX = "CROSSVIT_"

# A Service of Kubernetes, or a link of Docker, sets variables in containers; its NAME_PORT is a URL.
# Source: "Accessing the Service", Kubernetes; "Legacy container links", Docker.
_LINK_URL = re.compile(r"(tcp|udp|sctp)://\S+:\d+", re.IGNORECASE)
_LINK_NAME = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?|ENV_\w+)")
_OTHER_VARIABLES = {"CROSSVIT_API_KEY": "the key that `crossvit bench` and `crossvit evaluate` send; the service reads"}


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables in `environ` that have the prefix, by name in capitals; without empty ones and service links.

    Spaces, line ends and quotes around values are removed: files of secrets end with a line end, and
    `docker --env-file` keeps the quotes of its file.
    """
    values = {name.upper(): _plain(value) for name, value in environ.items() if name.upper().startswith(PREFIX)}
    return {name: value for name, value in values.items() if value and not is_service_link(name, value)}


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes or Docker sets the variable `name`, for a service that is named like the prefix."""
    if name.endswith("_NAME"):
        return value.startswith("/")  # Docker: /container/alias
    return bool(_LINK_NAME.fullmatch(name) or (name.endswith("_PORT") and _LINK_URL.fullmatch(value)))


def remarks(environ: Mapping[str, str], settings: Collection[str]) -> list[str]:
    """A sentence for each variable that has the prefix and is not one of `settings`, or is one and a service link."""
    sentences = []
    for name, value in sorted(environ.items()):
        upper = name.upper()
        if not upper.startswith(PREFIX):
            continue
        if is_service_link(upper, _plain(value)):
            if upper in settings:
                sentences.append(
                    f"{name}={_plain(value)[:100]} is ignored: Kubernetes or Docker sets it for a service of that "
                    "name; in Kubernetes, enableServiceLinks: false in the pod keeps it out"
                )
        elif upper not in settings:
            near = get_close_matches(upper, settings, n=1, cutoff=0.8)
            meaning = _OTHER_VARIABLES.get(upper, "not a setting")
            hint = f" {near[0]}" if upper in _OTHER_VARIABLES else f"; {near[0]} is" if near else ""
            sentences.append(f"{name} is {meaning}{hint}; `crossvit serve --help` lists the settings")
    return sentences


def _plain(value: str) -> str:
    value = value.strip().removeprefix("\ufeff")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1].strip()
    return value
