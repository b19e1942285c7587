"""Who acts in the restore drill: a partner, the operators, SAP and its accountant. Every act is counted."""

import json
from collections import Counter
from dataclasses import replace

from fakes.accepted import KEY_RING
from gateway_stage import ISSUER, keys

from bridge.errors import RecoveryDueError, RejectedError
from bridge.money import Money
from gateway.accept_payment import AcceptPayment, Submission
from gateway.idempotency import Fingerprints
from gateway.receipts import Receipts

AMOUNT_MINOR = 125000
AMOUNTS_MINOR = (20000, 50000, 100000, AMOUNT_MINOR)
KINDS = ("automatic", "manual")
# what SAP does with a posting; an empty script books it
FAULTS = ("ok", "ok", "ok", "commit-then-drop", "drop", "refuse:102(F5)", "refuse:506(F5)")
BOOKED = ("ok", "commit-then-drop")
# of ten acts on a payment or operation, so many go for one that is in a fitting state (`is_fitting`: all)
FITTING_OF_TEN = 8
AUTHORIZED = """payment.status = 'authorized' AND NOT EXISTS (
    SELECT FROM operations AS other WHERE other.payment_id = payment.payment_id AND other.position > 1
    AND other.status NOT IN ('succeeded', 'rejected', 'cancelled'))"""
FITTING = {
    "capture": AUTHORIZED,
    "reverse": AUTHORIZED,
    "refund": "payment.status IN ('paid', 'partially_refunded')",
    "cancel": "operation.position = 1 AND operation.claims_started = 0"
    " AND operation.status IN ('scheduled', 'accepted', 'parked')",
    "park": "operation.status IN ('accepted', 'unknown')",
    "reject": "operation.status IN ('accepted', 'unknown')",
    "redrive": "operation.status = 'parked'",
}


class Actors:
    """Each act chooses whom it concerns, does it, and counts what came of it under (phase, act, outcome).

    Outcomes: "done", "waits" (503 `recovery-due`), "refused" (any other refusal), "nobody" to act on.
    """

    def __init__(self, restorable, random):
        self.restorable, self.random = restorable, random
        self.bridge, self.stage = restorable.bridge, restorable.stage
        self.phase = "before"
        self.is_fitting = False
        self.counted = Counter()
        self.captures = {}
        self.written_off = set()
        self._accept = AcceptPayment(
            restorable.gateway, self.bridge.clock, KEY_RING, Fingerprints(b"k" * 32),
            Receipts(keys().receipt, ISSUER), lambda: None,
        )  # fmt: skip

    def act(self, name, *arguments):
        """Do one act; the time that passes before it is drawn as well."""
        self.bridge.clock.advance(self.random.choice((0.001, 1, 20)))
        try:
            outcome = getattr(self, name)(*arguments)
        except RecoveryDueError:
            outcome = "waits"
        except RejectedError:
            outcome = "refused"
        self.counted[self.phase, name, outcome] += 1

    # --- the partner

    def send(self, capture=None):
        """A new payment."""
        external_id = f"INV-{len(self.captures):03}"
        self.captures[external_id] = capture or self.random.choice(KINDS)
        return self._send(external_id, self.captures[external_id])

    def send_again(self):
        """The same payment under another key, as by a partner that has heard nothing."""
        external_id = self._a_lost_external_id()
        return self._send(external_id, self.captures[external_id]) if external_id else "nobody"

    def send_as_another_kind(self, external_id=None):
        external_id = external_id or self._a_lost_external_id()
        if external_id is None:
            return "nobody"
        (other,) = set(KINDS) - {self.captures[external_id]}
        return self._send(external_id, other)

    def _send(self, external_id, capture):
        value = Money(AMOUNT_MINOR, "EUR").as_json()
        document = {
            "external_id": external_id, "amount": value, "capture": capture,
            "debtor": {"name": "Muster GmbH", "account": {"iban": "DE89370400440532013000"}},
        }  # fmt: skip
        key = f"key-{sum(self.counted.values())}"
        body = json.dumps(document).encode()
        submission = Submission("POST", "/v1/payments", key, body, document, None)
        self._accept(self.bridge.directory.configuration, submission)
        return "done"

    def capture(self):
        return self._operate("capture", Money(AMOUNT_MINOR, "EUR"))

    def reverse(self):
        return self._operate("reverse", None)

    def refund(self, amount_minor=None):
        return self._operate("refund", Money(amount_minor or self.random.choice(AMOUNTS_MINOR), "EUR"))

    def _operate(self, kind, amount):
        found = self._choose(kind)
        if found is None:
            return "nobody"
        self.restorable.operate(found.payment_id, kind, amount)
        return "done"

    def cancel(self):
        found = self._choose("cancel")
        if found is None:
            return "nobody"
        self.restorable.cancel(found.payment_id)
        return "done"

    # --- the operators

    def park(self):
        return self._decide("park")

    def reject(self):
        return self._decide("reject")

    def redrive(self):
        return self._decide("redrive")

    def _decide(self, action, found=None):
        found = found or self._choose(action)
        if found is None:
            return "nobody"
        return self._outcome(self.stage.post(f"/admin/payments/{found.operation_id}/{action}"))

    def look_at_parked(self):
        """Accept a document that SAP has, disown one that was reversed there, else go on or end it."""
        found = self._one_of(self._steps("operation.status = 'parked'"))
        if found is None:
            return "nobody"
        documents = (found.found_documents or "").split(",")
        standing = [key for key in documents if key and key not in self.written_off]
        if standing:
            path = f"/admin/payments/{found.operation_id}/accept"
            return self._outcome(self.stage.post(path, {"document": standing[0]}))
        if found.found_documents:
            return self._decide("disown", found)
        return self._decide(self.random.choice(("redrive", "reject")), found)

    def accept_unplaced(self):
        found = self._one_of(self.unplaced())
        return self._settle(found, "accept") if found else "nobody"

    def dismiss_unplaced(self):
        """The accountant reverses the document, with what followed it, and an operator dismisses them."""
        found = self._one_of(self.unplaced())
        if found is None:
            return "nobody"
        is_first = found["kind"] in ("payment", "authorize")
        same = [one for one in self.unplaced() if one["external_id"] == found["external_id"]]
        for one in same if is_first else [found]:
            outcome = self._settle(one, "dismiss")
            if outcome == "done":
                self._write_off(f"{one['company_code']}/{one['fiscal_year']}/{one['number']}")
        return outcome

    def make_room_for_unplaced(self):
        """Reject payments that were sent again as another kind, for the lost ones to take their place."""
        for found in self._steps("operation.parked_reason = 'reference-conflict'"):
            self._decide("reject", found)
        return "done"

    def unplaced(self):
        return self.restorable.unplaced()

    def _settle(self, found, action):
        path = "/".join(found[name] for name in ("sap_system", "company_code", "fiscal_year", "number"))
        return self._outcome(self.stage.post(f"/admin/unplaced-documents/{path}/{action}"))

    @staticmethod
    def _outcome(answer):
        assert answer.status_code in (200, 202, 409, 503), answer.text
        if answer.status_code == 503:
            return "waits"
        return "refused" if answer.status_code == 409 else "done"

    # --- SAP

    def dispatch(self, words=FAULTS):
        """Have the adapter handle what is due first; SAP does what one of `words` says."""
        due = self.restorable.due()
        if not due:
            return "nobody"
        self.restorable.open_lane()
        self.bridge.clock.advance(max((due[0].not_before - self.bridge.clock.now()).total_seconds(), 0))
        self.bridge.sap.script.append(self.random.choice(words))
        self.bridge.step(due[0].operation_id)
        self.bridge.sap.script.clear()
        return "done"

    def _write_off(self, key):
        sap = self.bridge.sap
        self.written_off.add(key)
        for index, posted in enumerate(sap.posted):
            if str(posted.found.document) == key:
                reversed_ = replace(posted.found, is_reversed=True)
                sap.posted[index] = replace(posted, found=reversed_)
                sap.booked[index] = (sap.booked[index][0], reversed_)

    # --- whom an act concerns

    def _choose(self, action):
        fitting = self._steps(FITTING[action])
        if fitting and (self.is_fitting or self.random.randrange(10) < FITTING_OF_TEN):
            return self._one_of(fitting)
        return self._one_of(self._steps("true"))

    def _one_of(self, rows):
        return self.random.choice(rows) if rows else None

    def _steps(self, condition):
        """Steps with their payments, in an order that is the same in every run of the seed."""
        return self.restorable.rows(
            "SELECT operation.* FROM operations AS operation JOIN payments AS payment USING (payment_id)"
            f" WHERE {condition} ORDER BY external_id, payment.created_at, position"
        )

    def _a_lost_external_id(self):
        living = self.restorable.rows(
            "SELECT external_id FROM payments WHERE status NOT IN ('rejected', 'cancelled')"
        )
        return self._one_of(sorted(self.captures.keys() - {row.external_id for row in living}))
