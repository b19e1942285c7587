"""A partner's ordinary HTTP client: OAuth2 token, idempotency keys, retries as the contract asks for them."""

import random
import threading
import time
from dataclasses import dataclass
from typing import Any

import requests

from devstack.running_stack import Credentials

CALL_TIMEOUT_SECONDS = 30.0
# a token is renewed this long before it ends
TOKEN_MARGIN_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0
IN_PROGRESS = "/problems/idempotency-key-in-progress"


class GaveUpError(Exception):
    """The payment was not accepted in time, or refused; the text says how it ended."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A payment that was answered 202, after `refusals` (statuses, or the error's name) of earlier tries.

    `latency_ms` is that of the try which was answered 202, without fetching a token; `payment` its body.
    """

    payment: dict[str, Any]
    latency_ms: float
    refusals: tuple[str, ...]
    replayed: bool


class PartnerClient:
    """Thread-safe: each thread has its own connections, all share one token."""

    def __init__(self, api: str, credentials: Credentials) -> None:
        self._api = api
        self._credentials = credentials
        self._threads = threading.local()
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0

    @property
    def partner_id(self) -> str:
        return self._credentials.partner_id

    def post(self, key: str, body: dict[str, Any], path: str = "/v1/payments") -> requests.Response:
        """One try. Raises requests.RequestException when there is no answer, or no token."""
        headers = {"Authorization": f"Bearer {self._access_token()}", "Idempotency-Key": key}
        answer = self._session().post(
            f"{self._api}{path}", json=body, headers=headers, timeout=CALL_TIMEOUT_SECONDS
        )
        if answer.status_code == 401:
            self._forget_token()
        return answer

    def get(self, path: str) -> Any:
        """GET a resource; raises requests.RequestException when that is not answered with 2xx."""
        headers = {"Authorization": f"Bearer {self._access_token()}"}
        answer = self._session().get(f"{self._api}{path}", headers=headers, timeout=CALL_TIMEOUT_SECONDS)
        answer.raise_for_status()
        return answer.json()

    def pay(self, key: str, body: dict[str, Any], *, within_seconds: float = 60.0) -> Sent:
        """Send until it is accepted, always under the same key; GaveUpError when it is not."""
        deadline = time.monotonic() + within_seconds
        refusals: list[str] = []
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            retry_after_seconds = 0.0
            try:
                answer = self.post(key, body)
            except requests.RequestException as error:
                refusals.append(type(error).__name__)
            else:
                if answer.status_code == 202:
                    latency_ms = answer.elapsed.total_seconds() * 1000
                    replayed = answer.headers.get("Idempotency-Replayed") == "true"
                    return Sent(answer.json(), latency_ms, tuple(refusals), replayed)
                refusals.append(str(answer.status_code))
                if not _may_try_again(answer):
                    raise GaveUpError(f"refused with {answer.status_code}: {answer.text[:200]}")
                retry_after_seconds = _retry_after_seconds(answer)
            if time.monotonic() > deadline:
                raise GaveUpError(f"not accepted within {within_seconds} s: {', '.join(refusals[-5:])}")
            jitter = random.uniform(0.8, 1.2)  # noqa: S311 - spreads the retries, no secret
            time.sleep(max(pause_seconds * jitter, retry_after_seconds))
            pause_seconds = min(pause_seconds * 2, MAX_PAUSE_SECONDS)

    def _session(self) -> requests.Session:
        if not hasattr(self._threads, "session"):
            self._threads.session = requests.Session()
            # the person's proxy settings have no business between processes of one machine
            self._threads.session.trust_env = False
        session: requests.Session = self._threads.session
        return session

    def _access_token(self) -> str:
        with self._lock:
            if time.monotonic() >= self._renew_at:
                answer = self._session().post(
                    f"{self._api}/oauth2/token",
                    data={"grant_type": "client_credentials"},
                    auth=(self._credentials.client_id, self._credentials.client_secret),
                    timeout=CALL_TIMEOUT_SECONDS,
                )
                answer.raise_for_status()
                document = answer.json()
                self._token = document["access_token"]
                self._renew_at = time.monotonic() + document["expires_in"] - TOKEN_MARGIN_SECONDS
            return self._token

    def _forget_token(self) -> None:
        with self._lock:
            self._renew_at = 0.0


def _may_try_again(answer: requests.Response) -> bool:
    """No answer of ours, too many requests, an expired token, or the first try still running."""
    if answer.status_code >= 500 or answer.status_code in (401, 429):
        return True
    if answer.status_code != 409:
        return False
    try:
        return str(answer.json().get("type", "")).endswith(IN_PROGRESS)
    except (ValueError, AttributeError):
        return False


def _retry_after_seconds(answer: requests.Response) -> float:
    value = answer.headers.get("Retry-After", "")
    return min(float(value), MAX_PAUSE_SECONDS) if value.isdigit() else 0.0
