"""Many payments in one request: each stands alone, and all that can go in one transaction do.

What makes the transaction raise (an external id that is taken, a key whose first request is still running)
concerns one item only, so everything is then done again item by item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bridge.errors import BridgeError, FieldError, RejectedError
from bridge.partner import PartnerConfiguration
from bridge.storage.accept import AcceptAgainError, ExternalIdTakenError, KeyInProgressError, NewPayment
from bridge.storage.batch import accept_in_key_order, find_keys
from bridge.storage.failures import LOCK_NOT_AVAILABLE, is_passing, sqlstate
from bridge.storage.payments import StoredPayment, find_payments
from bridge.storage.transactions import transaction
from bridge.web.problems import problem_of, unavailable
from gateway import idempotency
from gateway.accept_payment import Accepted, AcceptPayment, Submission
from gateway.payment_request import invalid_request, read_payment

# What an item's fingerprint covers: the same payment sent alone.
METHOD, PATH = "POST", "/v1/payments"
KEY_MEMBER = "idempotency_key"

MAX_TRIES = 4
# Another batch with the same keys may hold them for as long as it takes.
LOCK_TIMEOUT_MILLISECONDS = 5000
# The edge waits a minute. What is left after this is answered 503 and to be sent again.
MAX_SECONDS = 40.0

Result = Accepted | RejectedError


@dataclass(frozen=True, slots=True)
class AcceptBatch:
    """Accepts what `accept_payment` accepts, many at a time and by the same rules."""

    accept_payment: AcceptPayment
    max_seconds: float = MAX_SECONDS

    def __call__(
        self,
        partner: PartnerConfiguration,
        items: Sequence[Any],
        traceparent: str | None,
        *,
        why_no_new: RejectedError | None = None,
    ) -> list[Result]:
        """Return for each item, in order, the payment or why it is none.

        With `why_no_new` only what earlier requests have made is told again; it is raised if that is nothing.
        An error of the database that is nobody's item is raised: what was accepted by then is found by its
        keys when the batch is repeated.
        """
        deadline = self.accept_payment.clock.monotonic() + self.max_seconds
        results: dict[int, Result] = {}
        submissions: dict[int, Submission] = {}
        for number, item in enumerate(items):
            try:
                submissions[number] = _submission(item, traceparent)
            except RejectedError as problem:
                results[number] = problem
        if why_no_new is not None:
            for number in self._new_among(partner.partner_id, submissions):
                results[number] = why_no_new
                del submissions[number]
            if not submissions:
                raise why_no_new
        together = self._together(partner, submissions)
        if together is None:
            together = self._one_by_one(partner, submissions, deadline)
        results |= together
        return [results[number] for number in range(len(items))]

    def _new_among(self, partner_id: str, submissions: Mapping[int, Submission]) -> list[int]:
        """Return the numbers of those under whose keys nothing has been made."""
        keys = [each.idempotency_key for each in submissions.values()]
        with self.accept_payment.engine.connect() as connection:
            known = find_keys(connection, partner_id, keys)
        return [number for number, each in submissions.items() if each.idempotency_key not in known]

    def _together(
        self, partner: PartnerConfiguration, submissions: Mapping[int, Submission]
    ) -> dict[int, Result] | None:
        """Accept all in one transaction; None, and nothing written, when one of them does not let it."""
        results: dict[int, Result] = {}
        new: dict[int, NewPayment] = {}
        for number, submission in submissions.items():
            try:
                prepared = self.accept_payment.prepare(partner, submission)
            except RejectedError as problem:
                results[number] = problem
                continue
            if isinstance(prepared, Accepted):
                results[number] = prepared
            else:
                new[number] = prepared
        if not new:
            return results
        written = self._write(list(new.values()))
        if written is None:
            return None
        if written:
            self.accept_payment.wake()
        taken = {number: each for number, each in new.items() if each.payment.payment_id not in written}
        for number in new.keys() - taken.keys():
            results[number] = Accepted(_stored(new[number]), replayed=False)
        return results | self._earlier(partner.partner_id, taken)

    def _write(self, payments: Sequence[NewPayment]) -> set[str] | None:
        for _ in range(MAX_TRIES):
            try:
                with transaction(
                    self.accept_payment.engine, lock_timeout_milliseconds=LOCK_TIMEOUT_MILLISECONDS
                ) as connection:
                    return accept_in_key_order(connection, payments)
            except AcceptAgainError:
                continue
            except (ExternalIdTakenError, KeyInProgressError):
                return None
            except DBAPIError as error:
                if sqlstate(error) != LOCK_NOT_AVAILABLE:
                    raise
                return None
        return None

    def _earlier(self, partner_id: str, new: Mapping[int, NewPayment]) -> dict[int, Result]:
        """Return what earlier requests have made under the keys that were taken."""
        if not new:
            return {}
        with self.accept_payment.engine.connect() as connection:
            keys = find_keys(connection, partner_id, [each.idempotency_key for each in new.values()])
            ids = [taken.payment_id for taken in keys.values()]
            payments = find_payments(connection, partner_id, ids)
        results: dict[int, Result] = {}
        for number, each in new.items():
            taken = keys[each.idempotency_key]
            try:
                idempotency.require_same(taken, each.fingerprint)
            except RejectedError as problem:
                results[number] = problem
            else:
                results[number] = Accepted(payments[taken.payment_id], replayed=True)
        return results

    def _one_by_one(
        self, partner: PartnerConfiguration, submissions: Mapping[int, Submission], deadline: float
    ) -> dict[int, Result]:
        results: dict[int, Result] = {}
        is_away = False
        for number, submission in submissions.items():
            if is_away or self.accept_payment.clock.monotonic() > deadline:
                results[number] = unavailable()
                continue
            try:
                results[number] = self.accept_payment(partner, submission)
            except BridgeError as error:
                results[number] = problem_of(error)
            except (DBAPIError, PoolTimeoutError) as error:
                if isinstance(error, DBAPIError) and not is_passing(error):
                    raise
                results[number] = problem_of(error)
                # a lock concerns one item; without a database the rest need not be tried
                is_away = isinstance(error, PoolTimeoutError) or sqlstate(error) != LOCK_NOT_AVAILABLE
        return results


def _submission(item: Any, traceparent: str | None) -> Submission:
    """Return the item as the same payment sent alone; its receipt is over its canonical JSON (RFC 8785)."""
    if not isinstance(item, dict):
        raise invalid_request([FieldError("", "must be an object")])
    document = {name: value for name, value in item.items() if name != KEY_MEMBER}
    key = item.get(KEY_MEMBER)
    if key is not None and not isinstance(key, str):
        raise invalid_request([FieldError(f"/{KEY_MEMBER}", "must be a string")])
    idempotency_key = idempotency.read_key(key, name=KEY_MEMBER)
    try:
        body = idempotency.canonical_json(document)
    except (ValueError, RecursionError) as error:
        read_payment(document)  # says what is wrong: every valid payment has a canonical form
        raise invalid_request([FieldError("", "has no canonical form (RFC 8785)")]) from error
    return Submission(METHOD, PATH, idempotency_key, body, document, traceparent)


def _stored(new: NewPayment) -> StoredPayment:
    return StoredPayment(new.payment, [new.operation], dict(new.metadata), new.receipt, new.sap_system)
