"""`python -m devstack.install FOLDER`: make the virtual environment from the hashed requirements.

Runs with the Python that the environment is made from, before anything is installed, so it needs nothing but
the standard library. pip installs uv, held to its hashes like everything else; uv installs the rest, several
times faster. Where uv can't (no wheel for the platform, an index out of its reach), pip installs it all.
"""

import argparse
import ast
import os
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
REQUIREMENTS = REPOSITORY / "requirements-dev.txt"
STAMP = ".installed"
LINE_SECONDS = 8.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m devstack.install", description=__doc__)
    parser.add_argument("folder", type=Path, help="the virtual environment")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--add", type=Path, metavar="FILE", help="more requirements for an environment that is there"
    )
    other.add_argument("--only", type=Path, metavar="FILE", help="these requirements, without the project")
    arguments = parser.parse_args()
    folder, more = arguments.folder, arguments.add or arguments.only
    requirements = more or REQUIREMENTS
    started = time.monotonic()
    python = prepare_environment(folder)
    count = sum("==" in line for line in requirements.read_text(encoding="utf-8").splitlines())
    say(f"installing {count} packages into {folder}: about 20 s with uv, two minutes with pip")
    done = install(python, requirements, exactly=arguments.add is None)
    if not (done and (more or install_project(python))):
        say("the packages could not be installed; what was wrong stands above, and the next try begins again")
        return 1
    (folder / STAMP).touch()
    say(f"installed after {time.monotonic() - started:.0f} s")
    return 0


def prepare_environment(folder: Path) -> Path:
    """Return the environment's Python. What an interrupted try or another Python has left is replaced."""
    python = folder / "bin" / "python"
    if (folder / STAMP).exists() and version_of(python) == sys.version_info[:2]:
        return python
    say(f"making {folder} with Python {sys.version.split()[0]}")
    (folder / STAMP).unlink(missing_ok=True)
    with telling("making the environment"):
        venv.create(folder, clear=True, with_pip=True)
    return python


def version_of(python: Path) -> tuple[int, ...] | None:
    """The version that the interpreter says it is; None if it does not run."""
    command = [str(python), "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(map(int, done.stdout.split()))


def install(python: Path, requirements: Path, *, exactly: bool) -> bool:
    """`exactly`: what the requirements do not name is removed."""
    uv = find_uv(python)
    if uv is not None:
        command = [str(uv), "pip", "sync" if exactly else "install", "--python", str(python), "--quiet"]
        command += ["--require-hashes", *([] if exactly else ["-r"]), str(requirements)]
        # every package is pinned by its hashes: whichever index has it, it is the same one
        command += ["--index-strategy", "unsafe-best-match"]
        if run(command, "installing", uv_environment(pip_settings(python), os.environ)):
            return True
    say("uv could not: pip takes its place, which takes two minutes")
    return run(pip(python, "install", "--require-hashes", "-r", str(requirements)), "installing")


def install_project(python: Path) -> bool:
    """Link the checkout itself, so that the environment has its commands; what that takes is installed."""
    link = ("--no-deps", "--no-build-isolation", "--no-index", "--editable", str(REPOSITORY))
    uv = [str(python.with_name("uv")), "pip", "install", "--quiet", "--python", str(python), *link]
    doing = "linking the checkout"
    return run(uv, doing) or run(pip(python, "install", *link), doing)


def find_uv(python: Path) -> Path | None:
    """The uv beside the Python that runs this, or one that pip gets; None where there is none to be had."""
    beside = Path(sys.executable).with_name("uv")
    if sys.prefix != sys.base_prefix and beside.exists():
        return beside
    with tempfile.TemporaryDirectory() as temporary:
        alone = Path(temporary) / "uv.txt"
        alone.write_text(requirement("uv", REQUIREMENTS.read_text(encoding="utf-8")), encoding="utf-8")
        if run(pip(python, "install", "--require-hashes", "-r", str(alone)), "getting uv"):
            return python.with_name("uv")
    return None


def pip(python: Path, command: str, *arguments: str) -> list[str]:
    return [str(python), "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments]


def requirement(name: str, requirements: str) -> str:
    """One package's line, with its hashes, out of a file that pins them all."""
    lines = iter(requirements.splitlines())
    wanted = next((line for line in lines if line.startswith(f"{name}==")), "")
    taken = [wanted]
    while taken[-1].endswith("\\"):
        taken.append(next(lines))
    return "\n".join(taken) + "\n"


def pip_settings(python: Path) -> dict[str, str]:
    """What pip is configured with, by option; a later and more specific source wins, as with pip itself."""
    done = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    return read_settings(done.stdout)


def read_settings(listed: str) -> dict[str, str]:
    """Read the lines `section.option='value'` of `pip config list`."""
    found: dict[tuple[int, str], str] = {}
    for line in listed.splitlines():
        name, separator, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if separator and section in SECTIONS:
            found[SECTIONS.index(section), option] = str(ast.literal_eval(value))
    return {option: value for (_, option), value in sorted(found.items())}


# in the order in which one overrules the one before
SECTIONS = ("global", "install", ":env:")
# pip's option, and uv's variable for the same thing
UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


def uv_environment(settings: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv, which reads neither pip's files nor its variables. What is set for uv stays."""
    told = {
        UV_VARIABLES[name]: " ".join(value.split())
        for name, value in settings.items()
        if name in UV_VARIABLES
    }
    return {**told, **environ}


def run(command: Sequence[str], doing: str, environment: Mapping[str, str] | None = None) -> bool:
    with telling(doing):
        try:
            return subprocess.run(command, check=False, cwd=REPOSITORY, env=environment).returncode == 0
        except OSError as error:
            say(f"{command[0]}: {error.strerror}")
            return False


@contextmanager
def telling(doing: str) -> Iterator[None]:
    """Say now and then that it still goes on."""
    over, started = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(LINE_SECONDS):
            say(f"  still {doing}, {time.monotonic() - started:.0f} s so far")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - it is for whoever typed `make`


if __name__ == "__main__":
    sys.exit(main())
