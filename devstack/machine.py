"""`python -m devstack.machine`: what the local stack needs of the machine, brought by its package manager.

Java and Google's two emulators; with `--tests` Node too. As root it installs what is missing, anybody else is
asked first, and where nobody can answer it ends with the one line that says how to install it.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from devstack.emulators import MIN_JAVA_VERSION, find_emulators, find_java
from devstack.install import telling
from devstack.preflight import StartError

EMULATOR_PACKAGES = ("google-cloud-cli-pubsub-emulator", "google-cloud-cli-firestore-emulator")
EMULATOR_COMPONENTS = ("pubsub-emulator", "cloud-firestore-emulator")
JAVA_PACKAGE = re.compile(r"^openjdk-(\d+)-jre-headless\b", re.MULTILINE)

Command = tuple[str, ...]


@dataclass(frozen=True)
class Need:
    """Something that the machine has to have. `look` raises StartError with the line for a person."""

    name: str
    look: Callable[[], object]
    how: Callable[[], Command | None]
    is_optional: bool = False


class Machine:
    """The machine by its environment; `is_root` may install without asking."""

    def __init__(self, environ: Mapping[str, str], *, is_root: bool) -> None:
        self.environ = environ
        self.is_root = is_root
        self._is_apt_up_to_date = False

    def which(self, program: str) -> str | None:
        return shutil.which(program, path=self.environ.get("PATH"))

    def needs(self, *, tests: bool) -> list[Need]:
        java = Need("Java", lambda: find_java(self.environ), self.how_to_get_java)
        emulators = Need("the emulators", lambda: find_emulators(self.environ), self.how_to_get_emulators)
        node = Need("Node", self.find_npm, self.how_to_get_node, is_optional=True)
        return [java, emulators, *([node] if tests else [])]

    def find_npm(self) -> str:
        npm = self.which("npm")
        if npm is None:
            raise StartError("npm is missing: the tests with a partner's Node service are skipped")
        return npm

    def how_to_get_java(self) -> Command | None:
        listed = self._apt_cache("search", "--names-only", "^openjdk-[0-9]+-jre-headless$")
        versions = [int(found) for found in JAVA_PACKAGE.findall(listed) if int(found) >= MIN_JAVA_VERSION]
        return apt_install(f"openjdk-{min(versions)}-jre-headless") if versions else None

    def how_to_get_emulators(self) -> Command | None:
        known = self._apt_cache("search", "--names-only", "^google-cloud-cli-.*-emulator$")
        if all(package in known for package in EMULATOR_PACKAGES):
            return apt_install(*EMULATOR_PACKAGES)
        gcloud = self.which("gcloud")
        return (gcloud, "components", "install", "--quiet", *EMULATOR_COMPONENTS) if gcloud else None

    def how_to_get_node(self) -> Command | None:
        known = self._apt_cache("search", "--names-only", "^npm$")
        return apt_install("nodejs", "npm") if known else None

    def _apt_cache(self, *words: str) -> str:
        if self.which("apt-get") is None:
            return ""
        listed = self._output("apt-cache", *words)
        if not listed and self.is_root and not self._is_apt_up_to_date:
            self._is_apt_up_to_date = True
            self.run(("apt-get", "update", "-q"))
            listed = self._output("apt-cache", *words)
        return listed

    def _output(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(self.environ))
        return done.stdout

    def run(self, command: Sequence[str]) -> bool:
        environment = {**self.environ, "DEBIAN_FRONTEND": "noninteractive"}
        with telling("installing"):
            return subprocess.run(command, check=False, env=environment).returncode == 0


def apt_install(*packages: str) -> Command:
    return ("apt-get", "install", "-y", "-q", "--no-install-recommends", *packages)


def provide(machine: Machine, needs: Sequence[Need], ask: Callable[[str], bool] | None) -> None:
    """Bring what is missing. StartError says what can't be brought; `ask` is None where nobody can answer."""
    for need in needs:
        try:
            need.look()
        except StartError as error:
            if bring(machine, need, ask):
                say(f"{need.name} is there now")
            elif need.is_optional:
                say(str(error))
            else:
                raise


def bring(machine: Machine, need: Need, ask: Callable[[str], bool] | None) -> bool:
    """Whether the need is met afterwards."""
    command = need.how()
    if command is None:
        return False
    if not machine.is_root:
        command = ("sudo", *command)
        if ask is None or machine.which("sudo") is None:
            return False
        if not ask(f"{need.name} is missing. Run `{' '.join(command)}`?"):
            return False
    say(f"{need.name} is missing: {' '.join(command)}")
    return machine.run(command) and is_there(need)


def is_there(need: Need) -> bool:
    try:
        need.look()
    except StartError:
        return False
    return True


def ask_a_person(question: str) -> bool:
    return input(f"{question} [Y/n] ").strip().lower() in ("", "y", "yes")


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - it is for whoever typed `make`


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m devstack.machine", description=__doc__)
    parser.add_argument("--tests", action="store_true", help="what `make test` needs, too")
    arguments = parser.parse_args()
    machine = Machine(os.environ, is_root=os.geteuid() == 0)
    try:
        provide(machine, machine.needs(tests=arguments.tests), ask_a_person if sys.stdin.isatty() else None)
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
