"""What is missing on a machine is brought by its package manager: as root, or after asking."""

import sys

import pytest

from devstack import emulators
from devstack.machine import Machine, main, provide
from devstack.preflight import StartError

pytestmark = pytest.mark.unit

APT = """#!/bin/sh
echo "$(basename $0) $*" >> {log}
case "$(basename $0) $*" in
  "apt-cache search"*openjdk*) echo "openjdk-11-jre-headless - old"; echo "openjdk-21-jre-headless - new" ;;
  "apt-cache search"*emulator*) [ -e {folder}/google ] && echo "{packages}" ;;
  "apt-get install"*openjdk-21*) cp {folder}/java.new {folder}/bin/java ;;
  "gcloud components install"*|"apt-get install"*google*) cp -r {folder}/sdk.new {folder}/sdk ;;
esac
"""
PACKAGES = "google-cloud-cli-pubsub-emulator google-cloud-cli-firestore-emulator"


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with apt and neither Java nor the emulators; `log` has what its programs were called with."""
    monkeypatch.setattr(emulators, "USUAL_FOLDERS", ())
    (tmp_path / "bin").mkdir()
    add_program(tmp_path, "apt-get", "apt-cache")
    java = tmp_path / "java.new"
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n")
    java.chmod(0o755)
    for jar in (
        "pubsub-emulator/lib/cloud-pubsub-emulator-1-all.jar",
        "cloud-firestore-emulator/cloud-firestore-emulator.jar",
    ):
        path = tmp_path / "sdk.new" / "platform" / jar
        path.parent.mkdir(parents=True)
        path.touch()
    return tmp_path


def add_program(folder, *names):
    for name in names:
        program = folder / "bin" / name
        program.write_text(APT.format(log=folder / "log", folder=folder, packages=PACKAGES))
        program.chmod(0o755)


def machine_in(folder, *, is_root):
    return Machine(
        {
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "CLOUDSDK_ROOT_DIR": str(folder / "sdk"),
            "JAVA_HOME": "",
        },
        is_root=is_root,
    )


def installed(folder):
    lines = (folder / "log").read_text().splitlines()
    return [line for line in lines if " install " in line]


def hide_java_of_this_machine(monkeypatch, folder):
    monkeypatch.setattr(
        "devstack.machine.find_java",
        lambda environ: emulators.find_java({**environ, "PATH": str(folder / "bin")}),
    )
    monkeypatch.setattr(
        "devstack.machine.find_emulators",
        lambda environ: emulators.find_emulators({**environ, "PATH": str(folder / "bin")}),
    )


def test_root_gets_java_and_the_emulators_from_apt_without_being_asked(bare, monkeypatch, capsys):
    hide_java_of_this_machine(monkeypatch, bare)
    (bare / "google").touch()
    machine = machine_in(bare, is_root=True)
    provide(machine, machine.needs(tests=False), None)
    java, google = installed(bare)
    assert java.endswith("openjdk-21-jre-headless")
    assert google.endswith(PACKAGES)
    assert "Java is missing: apt-get install" in capsys.readouterr().out


def test_the_emulators_come_from_gcloud_where_apt_does_not_know_them(bare, monkeypatch):
    hide_java_of_this_machine(monkeypatch, bare)
    add_program(bare, "gcloud")
    machine = machine_in(bare, is_root=True)
    provide(machine, machine.needs(tests=False), None)
    assert installed(bare)[-1].endswith("install --quiet pubsub-emulator cloud-firestore-emulator")


def test_anybody_else_is_asked_with_the_very_command(bare, monkeypatch):
    hide_java_of_this_machine(monkeypatch, bare)
    sudo = bare / "bin" / "sudo"
    sudo.write_text('#!/bin/sh\nexec "$@"\n')
    sudo.chmod(0o755)
    (bare / "google").touch()
    asked = []
    machine = machine_in(bare, is_root=False)
    provide(machine, machine.needs(tests=False), lambda question: not asked.append(question))
    assert len(asked) == len(installed(bare)) == 2
    assert "`sudo apt-get install" in asked[0]


@pytest.mark.parametrize("ask", [None, lambda _question: False])
def test_where_nobody_agrees_nothing_is_installed_and_the_line_says_how(bare, monkeypatch, ask):
    hide_java_of_this_machine(monkeypatch, bare)
    machine = machine_in(bare, is_root=False)
    with pytest.raises(StartError, match=r"Java 17 or newer is needed .*apt-get install"):
        provide(machine, machine.needs(tests=False), ask)
    assert installed(bare) == []


def test_a_machine_that_has_everything_is_left_alone(bare, monkeypatch):
    hide_java_of_this_machine(monkeypatch, bare)
    (bare / "java.new").rename(bare / "bin" / "java")
    (bare / "sdk.new").rename(bare / "sdk")
    machine = machine_in(bare, is_root=True)
    provide(machine, machine.needs(tests=False), None)
    assert not (bare / "log").exists()


def test_what_nobody_can_bring_ends_with_one_line(bare, monkeypatch, capsys):
    (bare / "bin" / "apt-get").unlink()
    monkeypatch.setenv("PATH", str(bare / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(sys, "argv", ["machine"])
    assert main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Java 17 or newer is needed")
