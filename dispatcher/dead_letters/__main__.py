"""`python -m dispatcher.dead_letters`: the dead-letter service under gunicorn."""

import os
import sys

from bridge.errors import SettingsError
from bridge.web.logs import configure_logs
from bridge.web.serve import serve
from dispatcher.dead_letters.app import create_app
from dispatcher.dead_letters.settings import Settings


def main() -> int:
    """Serve until SIGTERM."""
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"dead_letters: {error}\n")
        return 2
    configure_logs("dead_letters")
    return serve(
        lambda: create_app(settings),
        host=settings.host,
        port=settings.port,
        threads=settings.threads,
        name="dead_letters",
    )


if __name__ == "__main__":
    sys.exit(main())
