"""The partners' webhook secrets: a JSON file `{"<partner id>": "whsec_…"}`, read again when it changes."""

import json
import logging
import threading
from pathlib import Path

from standardwebhooks import Webhook

MAX_FILE_BYTES = 1024 * 1024

logger = logging.getLogger(__name__)


class SecretsFileError(Exception):
    """The file is not of the form above; the text says why and holds no secret."""


class SecretsFile:
    """Thread-safe. A file that isn't there yet means no secrets; when it can't be read the last good ones
    stay.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._verifiers: dict[str, Webhook] = {}

    def verifier(self, partner_id: str) -> Webhook | None:
        """What checks this partner's signatures; None when its secret is not known."""
        with self._lock:
            self._refresh()
            return self._verifiers.get(partner_id)

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return
            self._verifiers = read_verifiers(self._path)
            self._stamp = stamp
        except FileNotFoundError:
            self._verifiers, self._stamp = {}, None
        except (OSError, SecretsFileError) as error:
            logger.warning("%s: %s; the last good secrets stay", self._path, error)


def read_verifiers(path: Path) -> dict[str, Webhook]:
    """Raise SecretsFileError when the file is not of the agreed form, OSError when it can't be read."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SecretsFileError(f"over {MAX_FILE_BYTES} bytes")
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise SecretsFileError("not JSON") from error
    if not isinstance(document, dict):
        raise SecretsFileError("not a JSON object")
    verifiers = {}
    for partner_id, secret in document.items():
        try:
            verifiers[partner_id] = Webhook(secret)
        except Exception as error:
            # the library raises whatever its parts do: base64, types, its own
            raise SecretsFileError(f"the secret of {partner_id} is no whsec_ secret") from error
    return verifiers
