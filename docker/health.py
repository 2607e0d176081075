"""Whether the service in this container is ready: the exit status is 0 if /readyz answers 200.

It asks the address and port that the service takes from the environment, not those of options.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

from app.configuration.environment import variables
from app.configuration.quantities import whole

_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104, where the service listens

settings = variables(os.environ)
host = settings.get("CROSSVIT_HOST", "").removeprefix("[").removesuffix("]")
port = whole(settings.get("CROSSVIT_PORT", "8000"))
try:
    # With what is no number here the service does not start.
    connection = HTTPConnection(_ANY.get(host, host), int(port), timeout=4)
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    print(response.status, response.read(1000).decode(errors="replace"))
except (OSError, ValueError, HTTPException) as err:
    sys.exit(f"no answer: {err!r}")
sys.exit(response.status != 200)
