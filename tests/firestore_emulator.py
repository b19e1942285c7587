"""Google's Firestore emulator on a free port, to be killed and started again at will."""

import os
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.cloud.firestore_v1.types import Document, Write
from stand_ins import free_port
from waiting import DEADLINE_SECONDS, wait_until

from bridge.gcp.firestore import (
    CLIENT_IDS,
    FirestorePartnerStore,
    FirestoreSettings,
    encode,
    make_partner_store,
)
from devstack.emulators import find_emulators

PATIENT_SECONDS = DEADLINE_SECONDS
NOBODY = f"par_{'0' * 26}"


class FirestoreEmulator:
    """It has lost everything whenever it starts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "firestore.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> "FirestoreEmulator":
        command = find_emulators(os.environ).firestore_command(self.port)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers, what="start of the Firestore emulator")
        first = self.patient_store()
        first.get(NOBODY)  # slow over its first question
        first.close()
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=DEADLINE_SECONDS)
            self._process = None

    def store(self, project: str = "test-project", **timeouts: float) -> FirestorePartnerStore:
        """With the timeouts of production but for those that are given."""
        return make_partner_store(FirestoreSettings(project, emulator_host=self.address, **timeouts))

    def patient_store(self, project: str = "test-project") -> FirestorePartnerStore:
        """Not to be asked while the emulator is away; else a slow machine fails no test by it."""
        return self.store(
            project, read_timeout_seconds=PATIENT_SECONDS, write_timeout_seconds=PATIENT_SECONDS
        )

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        with (
            suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://{self.address}/", timeout=1) as answer,
        ):
            return answer.status == 200
        return False


def plant(store: FirestorePartnerStore, partner_id: str, document: dict[str, Any]) -> None:
    """Put anything in a document's place, as a hand in the console could."""
    fields = document | {CLIENT_IDS: [client["client_id"] for client in document["clients"]]}
    store._commit(Write(update=Document(name=store._name(partner_id), fields=encode(fields))))


def lose(store: FirestorePartnerStore, partner_id: str) -> None:
    store._open_client().delete_document(name=store._name(partner_id))
