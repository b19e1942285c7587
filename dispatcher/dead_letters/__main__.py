"""`python -m dispatcher.dead_letters`: the dead-letter service under gunicorn."""

import sys

from bridge.web.main import run
from dispatcher.dead_letters.app import create_app
from dispatcher.dead_letters.settings import Settings

if __name__ == "__main__":
    sys.exit(run("dead_letters", Settings.from_environment, create_app))
