"""What an HTTP service does at its start: read its settings, or say in one line what is wrong; then serve."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from flask import Flask

from bridge.environment import only_check
from bridge.errors import SettingsError
from bridge.web.logs import configure_logs
from bridge.web.serve import serve


class HttpSettings(Protocol):
    """What serving needs of a service's settings."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def threads(self) -> int: ...


Settings = TypeVar("Settings", bound=HttpSettings)


Keys = TypeVar("Keys")


def run(
    name: str, read_settings: Callable[[Mapping[str, str]], Settings], build: Callable[[Settings], Flask]
) -> int:
    """Serve until SIGTERM; status 2 and one line on stderr for a wrong setting. --check ends before serving.

    `build` runs in the worker: what it opens crosses no fork.
    """
    return run_with_keys(name, read_settings, lambda _settings: None, lambda settings, _keys: build(settings))


def run_with_keys(
    name: str,
    read_settings: Callable[[Mapping[str, str]], Settings],
    read_keys: Callable[[Settings], Keys],
    build: Callable[[Settings, Keys], Flask],
) -> int:
    """As `run`, for a service with keys: read once, before the fork, so that a wrong one is one line too."""
    configure_logs(name)
    try:
        settings = read_settings(os.environ)
        keys = read_keys(settings)
    except SettingsError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    if only_check(sys.argv):
        return 0
    return serve(
        lambda: build(settings, keys),
        host=settings.host,
        port=settings.port,
        threads=settings.threads,
        name=name,
    )
