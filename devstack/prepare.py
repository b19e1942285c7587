"""The steps between the processes: `python -m devstack.prepare <step> --state-dir … --port-offset …`.

Each may be repeated at any time and then only makes what is missing. They are processes of their own, so that
the supervisor stays small and a step that hangs or crashes is just another process that failed.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from bridge.errors import TransientError, UnknownOutcomeError
from devstack.kept_mark import restore_mark
from devstack.layout import SAP_SYSTEMS, Layout
from devstack.logins import create_database, create_logins
from devstack.postgres import DATABASE, OWNER, url_at
from devstack.preflight import StartError
from devstack.topics import create_topics


def prepare_database(layout: Layout) -> None:
    """The database, its schema, the SAP systems' lanes and the services' logins."""
    from bridge.storage.migrate import upgrade  # noqa: PLC0415 - Alembic is for this step only

    port = layout.ports["postgres"]
    create_database(url_at(port, "postgres", OWNER), DATABASE)
    upgrade(url_at(port, DATABASE, OWNER), SAP_SYSTEMS)
    create_logins(url_at(port, DATABASE, OWNER))


def prepare_partners(layout: Layout) -> None:
    """What the Firestore emulator has forgotten: the partners' documents and the high-water mark."""
    from devstack.seed import seed_partners  # noqa: PLC0415 - Google's client is for this step only

    try:
        restore_mark(layout)
        seed_partners(layout)
    except OSError as error:
        raise StartError(f"the high-water mark was not put back: {error}") from error
    except (TransientError, UnknownOutcomeError) as error:
        raise StartError(f"{error} ({error.__cause__})") from error


STEPS: dict[str, Callable[[Layout], None]] = {
    "database": prepare_database,
    "partners": prepare_partners,
    "topics": create_topics,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m devstack.prepare", description=__doc__)
    parser.add_argument("step", choices=sorted(STEPS))
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--port-offset", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        STEPS[arguments.step](Layout(arguments.state_dir, arguments.port_offset))
    except StartError as error:
        sys.stderr.write(f"{arguments.step}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
