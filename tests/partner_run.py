"""A run of payments against a private stack, waited for until everything is paid and told."""

from dataclasses import dataclass, field

import requests
from local_stack import Stack
from sqlalchemy.exc import SQLAlchemyError
from waiting import DEADLINE_SECONDS, wait_until

from devstack.demo.instructions import Instructions
from devstack.demo.partner_client import PartnerClient
from devstack.demo.sender import Sender
from devstack.evidence import Before, collect, get_json
from devstack.invariants import Accepted, Expectations, Violation, check, judge
from devstack.running_stack import RunningStack

POLL_SECONDS = 0.5


@dataclass
class PartnerRun:
    """Both demo partners send; what they were told is what the check expects of the stack."""

    running: RunningStack
    before: Before
    instructions: Instructions = field(default_factory=Instructions)

    @classmethod
    def on(cls, stack: Stack) -> "PartnerRun":
        running = RunningStack.read(stack.layout.stack_file)
        return cls(running, Before.take(running))

    def __post_init__(self) -> None:
        self.clients = [PartnerClient(self.running.api, one) for one in self.running.partners]
        self.sender = Sender(self.clients, self.instructions)

    @property
    def expectations(self) -> Expectations:
        return Expectations(
            accepted=self.sender.accepted, planted=self.instructions.planted, before=self.before
        )

    def each(self) -> list[tuple[PartnerClient, Accepted]]:
        """Every payment accepted so far, with the client of its partner."""
        clients = {client.partner_id: client for client in self.clients}
        return [(clients[one.partner_id], one) for one in self.sender.accepted]

    def check(self) -> list[Violation]:
        return check(self.running, self.expectations)

    def assert_each_is_booked_once(self, payments: int) -> None:
        """All that was sent is paid, by the database and by SAP's own books."""
        assert list(map(str, self.check())) == []
        paid = [client.get(f"/v1/payments/{one.payment_id}")["status"] for client, one in self.each()]
        assert paid == ["paid"] * payments
        stats = get_json(self.running.sap_mock, "stats")
        assert stats["documents"] - len(self.before.references) == payments
        assert stats["duplicates"] == self.before.duplicates == 0

    def wait_until_drained(self, timeout_seconds: float = DEADLINE_SECONDS) -> None:
        """Until no invariant but the last is broken; the AssertionError carries what still is."""
        latest: list[str] = []

        def is_drained() -> bool:
            latest[:] = self._outstanding()
            return not latest

        try:
            wait_until(is_drained, timeout_seconds=timeout_seconds, poll_seconds=POLL_SECONDS)
        except AssertionError as error:
            raise AssertionError("\n".join(["not drained:", *latest[:20]])) from error

    def _outstanding(self) -> list[str]:
        try:
            violations = judge(collect(self.running, self.before), self.expectations)
        except (SQLAlchemyError, requests.RequestException) as error:
            return [f"{type(error).__name__}: a part of the stack is away"]
        return [str(violation) for violation in violations]
