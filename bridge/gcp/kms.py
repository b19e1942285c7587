"""Cloud KMS behind the port KeyWrapper: its REST API, as it is asked once, at boot.

https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys (encrypt, decrypt).
Every value travels with its CRC32C in both directions, as Google asks of its callers:
https://cloud.google.com/kms/docs/data-integrity-guidelines
"""

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import google_crc32c
import requests
from google.auth.exceptions import GoogleAuthError
from urllib3.util.retry import Retry

from bridge.errors import PermanentError, TransientError
from bridge.gcp.http import google_session
from bridge.web.bounded_session import bounded_session

ORIGIN = "https://cloudkms.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloudkms"
TIMEOUT_SECONDS = 5.0
# with its repetitions
TOTAL_SECONDS = 20.0
MAX_RETRIES = 3
BACKOFF_SECONDS = 0.2
MAX_REASON_CHARACTERS = 300
_PASSING = (429, 500, 502, 503, 504)


@contextmanager
def cloud_kms(emulator_host: str | None, *, backoff_seconds: float = BACKOFF_SECONDS) -> Iterator["CloudKms"]:
    """Give Cloud KMS under the process's own account, or the stand-in at "host:port" in clear."""
    # both calls change nothing, so either may be repeated
    retry = Retry(
        total=MAX_RETRIES,
        backoff_factor=backoff_seconds,
        status_forcelist=_PASSING,
        allowed_methods=None,
        raise_on_status=False,
    )
    with _session(emulator_host, retry) as session:
        yield CloudKms(session, f"http://{emulator_host}" if emulator_host else ORIGIN)


class CloudKms:
    """KeyWrapper on Cloud KMS."""

    def __init__(self, session: requests.Session, origin: str) -> None:
        self._session = session
        self._origin = origin

    def wrap(self, kms_key: str, plaintext: bytes, bound_to: bytes) -> bytes:
        """See KeyWrapper."""
        answer = self._call(kms_key, "encrypt", "plaintext", plaintext, bound_to)
        if not (
            answer.get("verifiedPlaintextCrc32c") and answer.get("verifiedAdditionalAuthenticatedDataCrc32c")
        ):
            raise TransientError("Cloud KMS has not seen what was sent")
        return _checked(answer, "ciphertext")

    def unwrap(self, kms_key: str, wrapped: bytes, bound_to: bytes) -> bytes:
        """See KeyWrapper."""
        return _checked(self._call(kms_key, "decrypt", "ciphertext", wrapped, bound_to), "plaintext")

    def _call(self, kms_key: str, verb: str, member: str, value: bytes, bound_to: bytes) -> Mapping[str, Any]:
        body = {
            member: _text(value),
            f"{member}Crc32c": _checksum(value),
            "additionalAuthenticatedData": _text(bound_to),
            "additionalAuthenticatedDataCrc32c": _checksum(bound_to),
        }
        try:
            answer = self._session.post(
                f"{self._origin}/v1/{kms_key}:{verb}", json=body, timeout=TIMEOUT_SECONDS
            )
            document = answer.json()
        except GoogleAuthError as error:
            raise PermanentError("Google gives no token to this process") from error
        except (requests.RequestException, ValueError) as error:
            raise TransientError("Cloud KMS does not answer") from error
        if answer.status_code == requests.codes.ok and isinstance(document, dict):
            return document
        if answer.status_code in _PASSING:
            raise TransientError(f"Cloud KMS answers {answer.status_code}")
        raise PermanentError(f"Cloud KMS refuses: {_reason(document)}")


def _session(emulator_host: str | None, retry: Retry) -> requests.Session:
    if emulator_host:
        return bounded_session(TOTAL_SECONDS, retry=retry)
    try:
        return google_session(SCOPE, TOTAL_SECONDS, retry=retry)
    except GoogleAuthError as error:
        raise PermanentError("this process has no Google account") from error


def _checked(answer: Mapping[str, Any], member: str) -> bytes:
    """Return what came back, if it is what was sent."""
    try:
        value = base64.b64decode(answer[member], validate=True)
        arrived_whole = int(answer[f"{member}Crc32c"]) == google_crc32c.value(value)
    except (KeyError, TypeError, ValueError) as error:
        raise TransientError("Cloud KMS answers unreadably") from error
    if not arrived_whole:
        raise TransientError("the answer of Cloud KMS was damaged on its way")
    return value


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _checksum(value: bytes) -> str:
    """CRC32C (RFC 3720 section 12.1), as text: JSON's numbers are no int64."""
    return str(google_crc32c.value(value))


def _reason(document: Any) -> str:
    """Return Google's status and words, https://cloud.google.com/apis/design/errors: they name keys only."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return "no reason given"
    words = " ".join(str(error.get("message", "")).split())
    return f"{error.get('status')}: {words}"[:MAX_REASON_CHARACTERS]
