"""Whether the service in this container is ready: the exit status is 0 if /readyz answers 200."""

import os
import sys
from http.client import HTTPConnection, HTTPException

try:
    connection = HTTPConnection("127.0.0.1", int(os.environ.get("CROSSVIT_PORT") or 8000), timeout=4)
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    print(response.status, response.read(1000).decode(errors="replace"))
except (OSError, HTTPException) as err:
    sys.exit(f"no answer: {err!r}")
sys.exit(response.status != 200)
