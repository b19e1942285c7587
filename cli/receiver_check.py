"""Is a partner's receiver ready for our webhooks? A list of probes, each one request or a few.

What has to be accepted and what refused follows Standard Webhooks and docs/partners/webhooks.md.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import requests
from standardwebhooks import Webhook

from cli.http import is_local

TEST_EVENT_TYPE = "webhook.test"
# what a delivery waits for an answer; slower is a failed attempt
TIMEOUT_SECONDS = 15.0
# the age and the lead that Standard Webhooks' libraries allow a timestamp
TOLERANCE = timedelta(minutes=5)
DELIVERIES_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request: the body and its headers."""

    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """How the receiver answered: an HTTP status, or None and the error's class; and how long it took."""

    status: int | None
    error: str | None
    seconds: float

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_refused(self) -> bool:
        return self.status is not None and 400 <= self.status < 500

    def __str__(self) -> str:
        return f"{self.status or self.error} after {self.seconds:.2f} s"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe has found. `advice` says what to mend where it has not passed."""

    probe: str
    passed: bool
    observed: str
    advice: str


Send = Callable[[Delivery], Reply]


class Deliveries:
    """Made-up deliveries, signed with the endpoint's secret (`whsec_…`). ValueError if it is none."""

    def __init__(self, secret: str) -> None:
        self._webhook = Webhook(secret)

    def delivery(
        self,
        *,
        event_id: str | None = None,
        event_type: str = TEST_EVENT_TYPE,
        age: timedelta = timedelta(),
        signer: Webhook | None = None,
    ) -> Delivery:
        """Return a delivery signed `age` ago, by `signer` in place of the secret."""
        now = datetime.now(UTC)
        event_id = event_id or f"evt_check{secrets.token_hex(8)}"
        body = json.dumps(
            {
                "id": event_id,
                "sequence": 0,
                "previous_sequence": 0,
                "type": event_type,
                "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "data": {},
            }
        )
        signed_at = (now - age).replace(microsecond=0)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(int(signed_at.timestamp())),
            "webhook-signature": (signer or self._webhook).sign(event_id, signed_at, body),
        }
        return Delivery(body.encode(), headers)


def make_send(url: str) -> Send:
    """Return what sends a delivery to the receiver as the bridge does: bounded, and past no redirect."""

    def send(delivery: Delivery) -> Reply:
        started = time.monotonic()
        try:
            with requests.Session() as session:
                session.trust_env = not is_local(url)
                with session.post(
                    url, data=delivery.body, headers=delivery.headers,
                    timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True,
                ) as answer:  # fmt: skip
                    return Reply(answer.status_code, None, time.monotonic() - started)
        except (requests.RequestException, UnicodeError) as error:
            return Reply(None, type(error).__name__, time.monotonic() - started)

    return send


def check(send: Send, deliveries: Deliveries) -> Iterator[Finding]:
    """Run the probes, one after the other. Nothing follows the first if that is not accepted."""
    first = deliveries.delivery()
    reply = send(first)
    yield _expect_accepted(
        "a delivery with a good signature", reply, "answer 2xx within 15 s, without a redirect"
    )
    if not reply.is_accepted:
        return
    yield from _repetitions(send, deliveries, first)
    yield from _rotation(send, deliveries)
    yield from _forgeries(send, deliveries)
    yield _at_once(send, deliveries)


def _repetitions(send: Send, deliveries: Deliveries, first: Delivery) -> Iterator[Finding]:
    yield _expect_accepted(
        "the same delivery again (replay)",
        send(first),
        "acknowledge what has been handled already, and do nothing",
    )
    retried = deliveries.delivery(event_id=first.headers["webhook-id"])
    yield _expect_accepted(
        "a retry: the same webhook-id, signed anew", send(retried), "deduplicate by webhook-id and answer 2xx"
    )
    yield _expect_accepted(
        "an event of a type not known today",
        send(deliveries.delivery(event_type="payment.of_a_later_release")),
        "acknowledge event types that you do not handle: types will be added",
    )


def _rotation(send: Send, deliveries: Deliveries) -> Iterator[Finding]:
    mine = deliveries.delivery()
    foreign = _stranger().sign("evt_x", datetime.now(UTC), "")
    both = f"v1a,{base64.b64encode(os.urandom(64)).decode()} {foreign} {mine.headers['webhook-signature']}"
    yield _expect_accepted(
        "several signatures, one of them good (rotation)",
        send(Delivery(mine.body, {**mine.headers, "webhook-signature": both})),
        "look at every signature of the header, also past kinds that you do not know",
    )


def _forgeries(send: Send, deliveries: Deliveries) -> Iterator[Finding]:
    good = deliveries.delivery()
    forgeries = {
        "a signature by another secret": deliveries.delivery(signer=_stranger()),
        "a body changed on its way": Delivery(
            good.body.replace(b'"sequence": 0', b'"sequence": 1'), good.headers
        ),
        "a webhook-id changed on its way": Delivery(good.body, {**good.headers, "webhook-id": "evt_other"}),
        "no signature": Delivery(
            good.body, {name: value for name, value in good.headers.items() if name != "webhook-signature"}
        ),
        "a good signature from ten minutes ago": deliveries.delivery(age=2 * TOLERANCE),
        "a good signature from ten minutes ahead": deliveries.delivery(age=-2 * TOLERANCE),
    }
    for probe, forgery in forgeries.items():
        reply = send(forgery)
        yield Finding(
            probe,
            reply.is_refused,
            str(reply),
            "verify the signature over the raw body, and the timestamp to five minutes; answer 400 or 401",
        )


def _at_once(send: Send, deliveries: Deliveries) -> Finding:
    with ThreadPoolExecutor(DELIVERIES_AT_ONCE) as pool:
        replies = list(pool.map(send, [deliveries.delivery() for _ in range(DELIVERIES_AT_ONCE)]))
    slowest = max(replies, key=lambda reply: (not reply.is_accepted, reply.seconds))
    return _expect_accepted(
        f"{DELIVERIES_AT_ONCE} deliveries at once, the slowest",
        slowest,
        "answer 2xx first, within 15 s, and do the work afterwards",
    )


def _expect_accepted(probe: str, reply: Reply, advice: str) -> Finding:
    return Finding(probe, reply.is_accepted, str(reply), advice)


def _stranger() -> Webhook:
    return Webhook(os.urandom(24))
