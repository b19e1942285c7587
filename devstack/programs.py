"""How the stack's own programs are started: by this Python, in the checkout, in their own environment."""

import os
import sys
from collections.abc import Mapping

from devstack.layout import REPOSITORY, Layout
from devstack.units import Unit

# Only these of the caller's variables reach the processes: a proxy, a K_SERVICE or the credentials of the
# person who runs the stack have no business in it.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "JAVA_HOME", "VIRTUAL_ENV", "PYTHONPATH")


def base_environment(layout: Layout) -> dict[str, str]:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # DEVSTACK tells a person with a process list which stack a process belongs to
    return {**passed, "PYTHONUNBUFFERED": "1", "TZ": "UTC", "DEVSTACK": str(layout.state_folder)}


def python(
    layout: Layout,
    name: str,
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    **rest: object,
) -> Unit:
    """Describe `python -m module arguments`; `rest` are further fields of Unit."""
    return Unit(
        name,
        (sys.executable, "-m", module, *arguments),
        {**base_environment(layout), **(environment or {})},
        working_directory=REPOSITORY,
        **rest,  # type: ignore[arg-type] # Unit's fields, by name
    )
