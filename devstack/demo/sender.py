"""Sends a number of payments from several partners at once, at a pace, and keeps what was answered."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from devstack.demo.instructions import Instructions
from devstack.demo.partner_client import PartnerClient, Sent
from devstack.invariants import Accepted

PAUSE_SECONDS = 0.05


class Sender:
    """`accepted` and `sent` grow while it runs; thread-safe to read."""

    def __init__(self, clients: Sequence[PartnerClient], instructions: Instructions) -> None:
        self._clients = clients
        self._instructions = instructions
        self._lock = threading.Lock()
        self._sent: list[Sent] = []
        self._accepted: list[Accepted] = []

    @property
    def sent(self) -> list[Sent]:
        with self._lock:
            return list(self._sent)

    @property
    def accepted(self) -> list[Accepted]:
        with self._lock:
            return list(self._accepted)

    @property
    def accepted_count(self) -> int:
        with self._lock:
            return len(self._accepted)

    def send(
        self,
        group: str,
        count: int,
        *,
        threads: int = 4,
        per_second: float = 1000.0,
        within_seconds: float = 60.0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Return when all are accepted; GaveUpError if one is not. `meanwhile` is called all the time."""
        started = time.monotonic()

        def send_one(number: int) -> None:
            time.sleep(max(0.0, started + number / per_second - time.monotonic()))
            client = self._clients[number % len(self._clients)]
            body = self._instructions.body(group, number)
            sent = client.pay(f"{body['external_id']}-key", body, within_seconds=within_seconds)
            self._keep(sent, client.partner_id, body)

        with ThreadPoolExecutor(threads) as pool:
            running = [pool.submit(send_one, number) for number in range(count)]
            try:
                while not all(one.done() for one in running):
                    meanwhile()
                    time.sleep(PAUSE_SECONDS)
            except BaseException:  # Ctrl-C too: what has not begun need not
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            for one in running:
                one.result()

    def _keep(self, sent: Sent, partner_id: str, body: dict[str, Any]) -> None:
        accepted = Accepted(
            payment_id=sent.payment["id"],
            partner_id=partner_id,
            external_id=body["external_id"],
            value=body["amount"]["value"],
            currency=body["amount"]["currency"],
        )
        with self._lock:
            self._sent.append(sent)
            self._accepted.append(accepted)
