"""Whether the service in this container is ready: the exit status is 0 if /readyz answers 200.

It asks the address and port of the environment (CROSSVIT_HOST, CROSSVIT_PORT), not those of options.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104, where the service listens


def setting(name: str) -> str:
    """The environment's value, without what the service leaves out of it: spaces and quotes around it."""
    values = [value for given, value in os.environ.items() if given.upper() == name]
    return values[-1].strip().strip("\"'") if values else ""


host, port = setting("CROSSVIT_HOST"), setting("CROSSVIT_PORT")
try:
    # With what is no number here the service would not have started, but for a URL of a Kubernetes Service.
    connection = HTTPConnection(_ANY.get(host, host), int(port) if port.isdecimal() else 8000, timeout=4)
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    print(response.status, response.read(1000).decode(errors="replace"))
except (OSError, HTTPException) as err:
    sys.exit(f"no answer: {err!r}")
sys.exit(response.status != 200)
