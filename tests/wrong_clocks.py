"""Wrong wall clocks for the processes of a private stack: what tests/skewed/sitecustomize.py goes by."""

import itertools
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests
from waiting import wait_until

# a stack that is started with it gives each of its services a clock that can be set wrong
SKEWED = {"PYTHONPATH": str(Path(__file__).parent / "skewed")}
JUMPS_SECONDS = (600.0, 0.0, -600.0, 0.0, 90.0, -90.0)
JUMP_EVERY_SECONDS = 1.5
# the process has looked at the file, and its metrics show it
TOLERANCE_SECONDS = 5.0


def set_clock(stack, name: str, ahead_seconds: float) -> None:
    """Have the wall clock of the service run so many seconds ahead (negative: behind) of the true time."""
    folder = stack.layout.state_folder / "skew"
    folder.mkdir(exist_ok=True)
    fresh = folder / f".{name}"
    fresh.write_text(str(ahead_seconds))
    fresh.rename(folder / name)


def offset_seconds(metrics_port: int) -> float | None:
    """How far the service itself finds its wall clock ahead of the database's; None if it does not answer."""
    try:
        text = requests.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10).text
    except requests.RequestException:
        return None
    shown = re.search(r"^bridge_clock_offset_seconds (\S+)$", text, re.MULTILINE)
    return float(shown.group(1)) if shown else None


@contextmanager
def wrong_clocks(stack, ahead_seconds: Mapping[str, float], ports: Mapping[str, int] = {}) -> Iterator[None]:
    """Set the services' clocks wrong until the end; each has noticed when this begins, and when it ends.

    `ports`: where those show their metrics that are not in the stack's own table.
    """
    where = {name: ports.get(name) or stack.layout.ports[f"{name}_metrics"] for name in ahead_seconds}

    def set_all(wanted: Mapping[str, float]) -> None:
        for name, seconds in wanted.items():
            set_clock(stack, name, seconds)
        for name, seconds in wanted.items():
            wait_until(
                lambda name=name, seconds=seconds: is_near(offset_seconds(where[name]), seconds),
                what=f"{name}'s clock is {seconds} s ahead",
            )

    set_all(ahead_seconds)
    try:
        yield
    finally:
        set_all(dict.fromkeys(ahead_seconds, 0.0))


@contextmanager
def jumping_clocks(stack, names) -> Iterator[None]:
    """Have the services' clocks jump to and fro, each to another time; they are right again at the end."""
    over = threading.Event()

    def jump():
        turns = itertools.count()
        while not over.wait(JUMP_EVERY_SECONDS):
            turn = next(turns)
            for number, name in enumerate(names):
                set_clock(stack, name, JUMPS_SECONDS[(turn + number) % len(JUMPS_SECONDS)])

    jumper = threading.Thread(target=jump)
    jumper.start()
    try:
        yield
    finally:
        over.set()
        jumper.join()
        with wrong_clocks(stack, dict.fromkeys(names, 0.0)):
            pass


def is_near(offset: float | None, wanted: float) -> bool:
    return offset is not None and abs(offset - wanted) < TOLERANCE_SECONDS
