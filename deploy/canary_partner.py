"""Payments of a partner of our own, through a new revision of the gateway: the rollout's own requests.

They go to the revision's own address; which revision of the adapter and of webhooks meets them is decided by
the split of their traffic. So many are made that each new revision meets one with 95 % certainty: 29 at 10 %,
5 at 50 %, 1 at 100 %. The token comes from the public address, as partners' tokens do.
"""

import base64
import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CERTAINTY = 0.95
PAID_WITHIN_SECONDS = 300.0
TOLD_WITHIN_SECONDS = 300.0
POLL_SECONDS = 2.0
HTTP_TIMEOUT_SECONDS = 30
AMOUNT = {"value": "0.01", "currency": "EUR"}
SETTLED = "paid"
FAILED = ("rejected", "cancelled")


class CanaryError(Exception):
    """A payment of the canary partner did not go through."""


def payments_at(percent: int) -> int:
    """Return how many payments make sure that a revision with this share of the traffic meets one."""
    if percent >= 100:
        return 1
    return math.ceil(math.log(1 - CERTAINTY) / math.log(1 - percent / 100))


@dataclass(frozen=True)
class Client:
    """The canary partner's OAuth2 client, as `bridge partners clients add` prints it."""

    client_id: str
    client_secret: str

    @classmethod
    def read(cls, text: str) -> "Client":
        """Read the secret's content; CanaryError if it is none."""
        try:
            document = json.loads(text)
            return cls(document["client_id"], document["client_secret"])
        except (ValueError, KeyError, TypeError) as error:
            raise CanaryError("canary-client holds no client_id and client_secret") from error


@dataclass(frozen=True)
class CanaryPartner:
    """`api`: the public address; `gateway`: the new revision's; `identity_token`: for Cloud Run's check."""

    api: str
    gateway: str
    client: Client
    identity_token: Callable[[], str]
    pause: Callable[[float], object] = time.sleep

    def pay(self, percent: int, name: str) -> tuple[int, bool]:
        """Make payments, see each paid and every webhook delivered; CanaryError if one is not in time.

        Return how many payments were made, and whether the partner has an endpoint that webhooks went to.
        """
        token = self._token()
        is_told = any(endpoint["status"] == "enabled" for endpoint in self._endpoints(token))
        made = [self._pay(token, f"canary-{name}-{percent}-{n}") for n in range(payments_at(percent))]
        self._until(
            PAID_WITHIN_SECONDS,
            lambda: [payment for payment in made if not self._is_paid(token, payment)],
            "not paid",
        )
        self._until(TOLD_WITHIN_SECONDS, lambda: self._pending_deliveries(token), "webhooks not delivered")
        return len(made), is_told

    def _token(self) -> str:
        basic = base64.b64encode(f"{self.client.client_id}:{self.client.client_secret}".encode()).decode()
        form = urllib.parse.urlencode({"grant_type": "client_credentials"}).encode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
        return str(_call("POST", f"{self.api}/oauth2/token", headers, form)["access_token"])

    def _pay(self, token: str, key: str) -> str:
        body = {
            "external_id": key,
            "amount": AMOUNT,
            "capture": "automatic",
            "remittance_information": "canary",
        }
        return str(self._ask("POST", "/v1/payments", token, body, {"Idempotency-Key": key})["id"])

    def _is_paid(self, token: str, payment: str) -> bool:
        status = self._ask("GET", f"/v1/payments/{payment}", token)["status"]
        if status in FAILED:
            raise CanaryError(f"the canary's payment {payment} is {status}")
        return bool(status == SETTLED)

    def _endpoints(self, token: str) -> list[Any]:
        return list(self._ask("GET", "/v1/webhook-endpoints", token)["data"])

    def _pending_deliveries(self, token: str) -> list[str]:
        return [
            delivery["id"]
            for endpoint in self._endpoints(token)
            for delivery in self._ask(
                "GET", f"/v1/webhook-endpoints/{endpoint['id']}/deliveries?status=pending&limit=10", token
            )["data"]
        ]

    def _until(self, seconds: float, missing: Callable[[], list[str]], problem: str) -> None:
        ends_at = time.monotonic() + seconds
        while still := missing():
            if time.monotonic() > ends_at:
                raise CanaryError(f"{problem} within {seconds:.0f} s: {', '.join(still[:3])}")
            self.pause(POLL_SECONDS)

    def _ask(
        self,
        method: str,
        path: str,
        token: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        given = {
            "Authorization": f"Bearer {token}",
            # Cloud Run checks this one and leaves the other alone
            "X-Serverless-Authorization": f"Bearer {self.identity_token()}",
            "Content-Type": "application/json",
            **(headers or {}),
        }
        return _call(method, self.gateway + path, given, json.dumps(body).encode() if body else None)


def _call(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Any:
    request = urllib.request.Request(url, data=body, method=method, headers=dict(headers))  # noqa: S310 - https
    try:
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_SECONDS) as answer:  # noqa: S310
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise CanaryError(
            f"{method} {url}: {error.code} {error.read(500).decode(errors='replace')}"
        ) from error
    except (OSError, ValueError) as error:
        raise CanaryError(f"{method} {url}: {error}") from error
