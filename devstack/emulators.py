"""Find Java and Google's two emulators wherever the Cloud SDK is installed, or say how to install them."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.preflight import StartError

MIN_JAVA_VERSION = 17
JAVA_TIMEOUT_SECONDS = 20
USUAL_FOLDERS = (
    "~/google-cloud-sdk",
    "/usr/lib/google-cloud-sdk",
    "/usr/share/google-cloud-sdk",
    "/usr/local/google-cloud-sdk",
    "/usr/local/share/google-cloud-sdk",
    "/opt/google-cloud-sdk",
    "/opt/google/google-cloud-sdk",
    "/opt/homebrew/share/google-cloud-sdk",
    "/snap/google-cloud-sdk/current",
    "/google-cloud-sdk",
)
PUBSUB_JARS = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
FIRESTORE_JARS = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
FIRESTORE_MAIN_CLASS = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
INSTALL_EMULATORS = (
    "install with `gcloud components install pubsub-emulator cloud-firestore-emulator`, or from Google's apt "
    "repository with `apt-get install google-cloud-cli-pubsub-emulator google-cloud-cli-firestore-emulator`"
)
INSTALL_JAVA = (
    f"Java {MIN_JAVA_VERSION} or newer is needed by the emulators: "
    f"install with `apt-get install openjdk-{MIN_JAVA_VERSION}-jre-headless`"
)


@dataclass(frozen=True)
class Emulators:
    java: str
    pubsub_jar: Path
    firestore_jar: Path

    def pubsub_command(self, port: int) -> tuple[str, ...]:
        return (self.java, *_JVM, "-jar", str(self.pubsub_jar), "--host=127.0.0.1", f"--port={port}")

    def firestore_command(self, port: int) -> tuple[str, ...]:
        return (
            self.java, *_JVM, "-cp", str(self.firestore_jar), FIRESTORE_MAIN_CLASS,
            "--host=127.0.0.1", f"--port={port}",
        )  # fmt: skip


# Small machines: less compiling and less collecting starts the two a second earlier on two cores.
_JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m", "-Duser.language=en")


def sdk_folders(environ: Mapping[str, str]) -> Iterator[Path]:
    """Candidates, best first: where the user says, where `gcloud` really lives, where it usually is."""
    if environ.get("CLOUDSDK_ROOT_DIR"):
        yield Path(environ["CLOUDSDK_ROOT_DIR"])
    gcloud = shutil.which("gcloud", path=environ.get("PATH"))
    if gcloud:
        # <sdk>/bin/gcloud, perhaps behind links or one folder deeper
        yield from Path(gcloud).resolve().parents[1:3]
    for folder in USUAL_FOLDERS:
        home = environ.get("HOME", "/")
        yield Path(folder.replace("~", home, 1))


def find_emulators(environ: Mapping[str, str]) -> Emulators:
    """StartError, one line with the install command, if Java or an emulator is missing."""
    java = find_java(environ)
    pubsub = _newest(environ, PUBSUB_JARS)
    firestore = _newest(environ, FIRESTORE_JARS)
    missing = [name for name, jar in (("Pub/Sub", pubsub), ("Firestore", firestore)) if jar is None]
    if pubsub is None or firestore is None:
        raise StartError(f"the Google emulator for {' and '.join(missing)} is missing: {INSTALL_EMULATORS}")
    return Emulators(java, pubsub, firestore)


def _newest(environ: Mapping[str, str], pattern: str) -> Path | None:
    for folder in sdk_folders(environ):
        jars = sorted(folder.glob(pattern))
        if jars:
            return jars[-1]
    return None


def find_java(environ: Mapping[str, str]) -> str:
    """The path of a Java that is new enough: JAVA_HOME's, else the one on PATH."""
    home = environ.get("JAVA_HOME")
    candidates = [str(Path(home) / "bin" / "java")] if home else []
    candidates.append(shutil.which("java", path=environ.get("PATH")) or "")
    found: int | None = None
    for java in filter(None, candidates):
        version = java_version(java)
        if version is not None and version >= MIN_JAVA_VERSION:
            return java
        found = version if version is not None else found
    raise StartError(INSTALL_JAVA + (f" (found Java {found})" if found is not None else ""))


def java_version(java: str) -> int | None:
    """The feature version (17, 21, …) that the program itself tells; None if it does not run."""
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, check=False, timeout=JAVA_TIMEOUT_SECONDS,
            env={"PATH": os.defpath},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match.group(1)) if match else None
