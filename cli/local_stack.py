"""Where the local stack's services are, when no address is given: as its `stack.json` says."""

import json
from collections.abc import Callable
from pathlib import Path

STACK_FILE = Path(".devstack/stack.json")
# where they are when the stack was started without PORT_OFFSET
PORTS = {"envoy": 8080, "partners": 8084, "backoffice": 8089}


def local_url(service: str) -> Callable[[], str]:
    """A default for an option: the address of that service of the stack that runs in this folder."""

    def find() -> str:
        try:
            port = json.loads(STACK_FILE.read_bytes())["ports"][service]
        except (OSError, ValueError, KeyError):
            port = PORTS[service]
        return f"http://127.0.0.1:{port}"

    return find
