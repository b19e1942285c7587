"""Reading the environment at boot: each reader raises SettingsError with a line that names the variable."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from bridge.errors import SettingsError

MAX_PORT = 65_535
MAX_THREADS = 1000
CHECK_OPTION = "--check"


# what Cloud Run sets: https://cloud.google.com/run/docs/container-contract#env-vars
CLOUD_RUN = ("K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL")


def on_cloud_run(environ: Mapping[str, str]) -> bool:
    """Tell whether this process is a service, a job or a worker pool of Cloud Run."""
    return any(environ.get(name) for name in CLOUD_RUN)


def only_check(arguments: Sequence[str]) -> bool:
    """Tell whether a process shall only read its settings and what they name, and end: status 0 or 2."""
    return CHECK_OPTION in arguments[1:]


def required(environ: Mapping[str, str], name: str) -> str:
    """Return a variable that must not be empty."""
    value = environ.get(name, "")
    if not value:
        raise SettingsError(f"{name} is not set")
    return value


def whole(environ: Mapping[str, str], name: str, default: int, *, at_most: int) -> int:
    """Return a whole number from 1 to `at_most`."""
    value = environ.get(name, str(default))
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= at_most):
        raise SettingsError(f"{name} is not a whole number from 1 to {at_most}")
    return int(value)


def seconds(environ: Mapping[str, str], name: str, default: float, *, at_most: float) -> float:
    """Return a number of seconds above 0 and up to `at_most`."""
    return parse_seconds(environ.get(name, str(default)), name, at_most=at_most)


def number(environ: Mapping[str, str], name: str, default: float, minimum: float, maximum: float) -> float:
    """Return a number from `minimum` to `maximum`."""
    try:
        value = float(environ.get(name, default))
    except ValueError as error:
        raise SettingsError(f"{name} is not a number") from error
    if not minimum <= value <= maximum:
        raise SettingsError(f"{name} is not between {minimum:g} and {maximum:g}")
    return value


def parse_seconds(value: str, name: str, *, at_most: float) -> float:
    """Read one number of seconds of the variable `name`."""
    try:
        number = float(value)
    except ValueError as error:
        raise SettingsError(f"{name} is not a number of seconds") from error
    if not 0 < number <= at_most:
        raise SettingsError(f"{name} is not above 0 and up to {at_most:g} seconds")
    return number


def flag(environ: Mapping[str, str], name: str) -> bool:
    """Return a variable that is `true` or `false`, false if it is not set."""
    value = environ.get(name, "false")
    if value not in ("true", "false"):
        raise SettingsError(f"{name} is neither true nor false")
    return value == "true"


def http_url(environ: Mapping[str, str], name: str) -> str:
    """Return an http(s) URL that does not end in a slash."""
    value = required(environ, name)
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or value.endswith("/"):
        raise SettingsError(f"{name} is not an http(s) URL without a slash at its end")
    return value


def emulator(environ: Mapping[str, str], name: str) -> str | None:
    """Return the host:port of an emulator, None if there is none; on Cloud Run it is refused."""
    value = environ.get(name) or None
    if value and on_cloud_run(environ):
        raise SettingsError(f"{name} is not allowed on Cloud Run")
    return value
