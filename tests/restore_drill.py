"""A seeded restore: partners, operators and SAP act before it, in the lost time, in the window and after."""

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random

from fakes.accepted import PARTNER_ID, insert_accepted
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from bridge.errors import RecoveryDueError, RejectedError
from bridge.money import Money
from bridge.payment import OperationKind
from bridge.storage.feed import feed_page
from dispatcher.sequencer import Sequencer
from sap_adapter.document_mark import read_mark

FAULTS = ("ok", "ok", "ok", "commit-then-drop", "drop", "refuse:102(F5)", "refuse:506(F5)")
AMOUNT_MINOR = 125000
MAX_PAYMENTS = 8
OPERATORS_ACTIONS = ("park", "redrive", "reject", "accept", "disown")
PAGE = 10_000


@dataclass
class RestoreDrill:
    """Plays one seed. `is_noticed`: the restored database finds itself in another cluster."""

    restorable: object
    seed: int
    refused: int = 0
    seen: dict = field(default_factory=dict)

    def __post_init__(self):
        self.random = Random(self.seed)  # noqa: S311 - to be repeated by its seed
        self.bridge = self.restorable.bridge
        self.is_noticed = self.random.random() < 0.7
        self.external_ids = []
        self.sequencer = Sequencer(self.restorable.dispatcher, lambda: None, self.bridge.clock.monotonic)

    def play(self):
        for _ in range(3):
            self.send()
        self.act(12, may_dispatch=True)
        self.restorable.back_up()
        self.act(14, may_dispatch=True)
        self.restorable.restore()
        if self.is_noticed:
            self.restorable.lose_home()
        # nothing is dispatched: lanes are held by whoever noticed it, or by the runbook
        self.act(8, may_dispatch=False)
        assert self.restorable.begin().status_code == 201
        self.act(4, may_dispatch=False)
        assert self.restorable.job(_Watched(self)).run()
        self.act(8, may_dispatch=True)
        self.settle()

    def act(self, count, *, may_dispatch):
        for _ in range(count):
            self.bridge.clock.advance(self.random.choice((0, 0.001, 1, 20)))
            moves = [
                self.send,
                self.send_again,
                self.operate,
                self.operate,
                self.cancel,
                self.decide,
                self.read,
            ]
            if may_dispatch:
                moves += [self.dispatch] * 6
            try:
                self.random.choice(moves)()
            except RecoveryDueError:
                self.refused += 1
            except RejectedError:
                pass

    def send(self, external_id=None):
        if external_id is None and len(self.external_ids) >= MAX_PAYMENTS:
            return
        kind = self.random.choice(("payment", "authorize"))
        try:
            with self.bridge.engine.begin() as connection:
                operation_id = insert_accepted(connection, self.bridge.clock.now(), kind=kind)
                payment_id = connection.execute(
                    text("""
                    UPDATE payments SET receipt = 'signed', capture = :capture,
                        external_id = coalesce(CAST(:external_id AS text), external_id)
                    WHERE payment_id = (SELECT payment_id FROM operations WHERE operation_id = :id)
                    RETURNING external_id
                    """),
                    {
                        "id": operation_id,
                        "external_id": external_id,
                        "capture": "manual" if kind == "authorize" else "automatic",
                    },
                ).scalar_one()
                connection.execute(
                    text("""
                    INSERT INTO outbox (lane, partner_id, operation_id, not_before, created_at)
                    SELECT sap_system, partner_id, operation_id, created_at, created_at
                    FROM operations WHERE operation_id = :id
                    """),
                    {"id": operation_id},
                )
        except IntegrityError:
            return  # 409 duplicate-external-id
        if external_id is None:
            self.external_ids.append(payment_id)

    def send_again(self):
        """What a partner does that has heard nothing: under the same external id, of either kind."""
        self.send(self.random.choice(self.external_ids))

    def operate(self):
        payments = self.restorable.rows("SELECT payment_id FROM payments")
        kind = self.random.choice(("capture", "reverse", "refund", "refund"))
        amount = None
        if kind in ("capture", "refund"):
            amount = Money(self.random.choice((20000, 50000, 100000, AMOUNT_MINOR)), "EUR")
        if payments:
            self.restorable.operate(self.random.choice(payments).payment_id, kind, amount)

    def cancel(self):
        payments = self.restorable.rows("SELECT payment_id FROM payments")
        if payments:
            self.restorable.cancel(self.random.choice(payments).payment_id)

    def decide(self):
        operations = self.restorable.rows("SELECT operation_id FROM operations")
        if not operations:
            return
        target = self.random.choice(operations).operation_id
        action = self.random.choice(OPERATORS_ACTIONS)
        answer = self.restorable.stage.post(f"/admin/payments/{target}/{action}")
        assert answer.status_code in (200, 202, 409, 503), answer.text
        self.refused += answer.status_code == 503

    def dispatch(self):
        due = self.restorable.rows(
            "SELECT operation_id, not_before FROM outbox WHERE operation_id IS NOT NULL"
            " AND not_before IS NOT NULL ORDER BY not_before, identity"
        )
        if due:
            self.open_lane()
            self.bridge.clock.advance(max((due[0].not_before - self.bridge.clock.now()).total_seconds(), 0))
            self.bridge.sap.script.append(self.random.choice(FAULTS))
            self.bridge.step(due[0].operation_id)
            self.bridge.sap.script.clear()

    def open_lane(self):
        """Undo what faults did to the lane's window: no relay is here to send probes. A hold stays."""
        with self.bridge.engine.begin() as connection:
            connection.execute(
                text("""
                UPDATE sap_systems
                SET call_window = hard_cap, failed_probes = 0, failing_operations = '{}'
                """)
            )

    def read(self):
        """Read the feed as a partner does: no number comes again for another event, none below the last."""
        self.sequencer.go_round()
        with self.bridge.engine.begin() as connection:
            page = feed_page(connection, PARTNER_ID, after=max(self.seen, default=0), limit=PAGE)
        for event in page:
            assert self.seen.setdefault(event.sequence, event.event_id) == event.event_id
        with self.bridge.engine.begin() as connection:
            for event in feed_page(connection, PARTNER_ID, after=0, limit=PAGE):
                assert self.seen.get(event.sequence) == event.event_id, f"missed or reused {event.sequence}"

    def settle(self):
        """Let everything go on; operators look at what is parked, and accept what SAP has."""
        self.open_lane()
        for _ in range(6):
            self.restorable.let_all_go_on()
            parked = self.restorable.rows(
                "SELECT operation_id, found_documents FROM operations WHERE status = 'parked'"
            )
            if not parked:
                break
            for row in parked:
                action = "accept" if row.found_documents else self.random.choice(("redrive", "reject"))
                self.restorable.stage.act(row.operation_id, action)
        self.restorable.let_all_go_on()
        self.read()

    def judge(self):
        """Compare the books of SAP with those of the bridge."""
        operations = self.restorable.operations()
        open_ones = [row for row in operations if row.status not in ("succeeded", "rejected", "cancelled")]
        assert open_ones == []
        recorded = {row.sap_document_number: row for row in operations if row.status == "succeeded"}
        unplaced = {document["number"] for document in self.restorable.unplaced()}
        numbers = {posted.found.document.number for posted in self.bridge.sap.posted}
        assert numbers <= recorded.keys() | unplaced
        assert recorded.keys() <= numbers
        self.judge_amounts(unplaced)
        return len(numbers), len(unplaced)

    def judge_amounts(self, unplaced):
        """No money went out beyond what was captured: by SAP's own books, whatever ours say."""
        books = defaultdict(lambda: defaultdict(int))
        for posted in self.bridge.sap.posted:
            if posted.found.document.number in unplaced:
                continue
            kind = OperationKind.REVERSE if posted.is_reversal else read_mark(posted.mark)[0]
            books[posted.external_id][kind] += posted.found.amount.minor
        for external_id, book in books.items():
            captured = book[OperationKind.PAYMENT] + book[OperationKind.CAPTURE]
            assert captured <= AMOUNT_MINOR, (external_id, dict(book))
            assert book[OperationKind.REFUND] <= captured, (external_id, dict(book))
            assert not (book[OperationKind.CAPTURE] and book[OperationKind.REVERSE]), (
                external_id,
                dict(book),
            )
            assert book[OperationKind.AUTHORIZE] <= AMOUNT_MINOR, (external_id, dict(book))


@dataclass
class _Watched:
    """SAP's list of documents, read while the actors go on."""

    drill: RestoreDrill

    def documents_since(self, day, offset):
        self.drill.act(1, may_dispatch=False)
        return self.drill.bridge.sap.documents_since(day, offset)
