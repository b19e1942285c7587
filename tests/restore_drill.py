"""A seeded restore: partners, operators and SAP act before it, in the lost time, in the window and after."""

from collections import defaultdict
from random import Random

from fakes.accepted import PARTNER_ID
from restore_actors import AMOUNT_MINOR, BOOKED, Actors

from bridge.payment import OperationKind
from bridge.storage.feed import feed_page
from dispatcher.sequencer import Sequencer
from sap_adapter.document_mark import read_mark

# All of these act in the window of every seed: they wait, or are done if nobody has noticed the restore.
IN_THE_WINDOW = ("cancel", "capture", "reverse", "refund", "reject", "redrive")
SENT_AGAIN = "send_as_another_kind"
AFTERWARDS = ("accept_unplaced", "dismiss_unplaced")
ANYBODY = ("send", "send_again", SENT_AGAIN, *IN_THE_WINDOW, "park", "look_at_parked")
SECOND_RESTORES = (None, "older", "newer", "during")
MAX_ROUNDS = 12
PAGE = 10_000


class RestoreDrill:
    """Plays one seed.

    Every second seed finds itself in another cluster (`is_noticed`); otherwise an operator has to begin the
    recovery, and meanwhile everything is decided on what the restore has left.
    """

    def __init__(self, restorable, seed):
        self.restorable, self.bridge = restorable, restorable.bridge
        self.random = Random(seed)  # noqa: S311 - to be repeated by its seed
        self.is_noticed = seed % 2 == 1
        self.second = SECOND_RESTORES[seed // 2 % len(SECOND_RESTORES)]
        self.actors = Actors(restorable, self.random)
        self.sequencer = Sequencer(restorable.dispatcher, lambda: None, self.bridge.clock.monotonic)
        self.seen = {}

    def play(self):
        self.enter("before")
        self.anybody(6, may_dispatch=True)
        self.set_up()
        self.restorable.back_up()
        self.enter("lost")
        self.lose()
        self.anybody(8, may_dispatch=True)
        self.read()
        self.restore_and_recover(self.restorable.restore, _Source(self, backs_up=self.second == "during"))
        self.enter("after")
        self.settle_unplaced()
        if self.second is not None:
            self.restore_again()
        self.settle()

    def enter(self, phase):
        self.actors.phase = phase

    def anybody(self, count, *, may_dispatch):
        acts = (*ANYBODY, *("dispatch",) * len(ANYBODY)) if may_dispatch else ANYBODY
        for _ in range(count):
            self.actors.act(self.random.choice(acts))

    def set_up(self):
        """Have something in the backup for each of the acts in the window."""
        for _ in range(2):
            self.send_and_book("manual")
        self.send_and_book("automatic")
        self.send_and_book("automatic", ("refuse:506(F5)",))
        for _ in range(3):
            self.actors.act("send")

    def go_on(self):
        self.restorable.open_lane()
        self.restorable.let_all_go_on()

    def send_and_book(self, capture, words=("ok",)):
        self.go_on()
        self.actors.act("send", capture)
        self.actors.act("dispatch", words)

    def lose(self):
        """Book some of it, and what follows, and two payments that are then lost."""
        acts = ["capture", "reverse", "refund", "redrive", "dispatch", "dispatch"]
        self.random.shuffle(acts)
        for act in acts[:5]:
            self.actors.act(act)
            self.actors.act("dispatch", BOOKED)
        self.lost = sorted(self.actors.captures)[-1:]
        for _ in range(2):
            before = set(self.actors.captures)
            self.send_and_book(None, BOOKED)
            self.lost += sorted(set(self.actors.captures) - before)
        self.lost = self.lost[1:]

    def restore_and_recover(self, restore, source, *, restart=False):
        restore()
        if self.is_noticed:
            self.restorable.lose_home()
        # nothing is dispatched: lanes are held by whoever noticed it, or by the runbook
        is_second = self.actors.phase == "after"
        self.enter("second window" if is_second else "window")
        acts = [*IN_THE_WINDOW, *((SENT_AGAIN, external_id) for external_id in self.lost)]
        self.random.shuffle(acts)
        self.actors.is_fitting = True
        for act in acts:
            self.actors.act(*([act] if isinstance(act, str) else act))
        self.actors.is_fitting = False
        self.anybody(4, may_dispatch=False)
        self.enter("recovering")
        assert self.restorable.begin(restart=restart).status_code == 201
        self.anybody(3, may_dispatch=False)
        assert self.restorable.job(source).run()

    def settle_unplaced(self):
        """Operators accept documents and dismiss others, while everything goes on."""
        self.anybody(3, may_dispatch=True)
        self.go_on()
        self.actors.act("dismiss_unplaced")
        self.actors.act("make_room_for_unplaced")
        self.go_on()
        for _ in self.actors.unplaced():
            self.actors.act("accept_unplaced")
        self.anybody(6, may_dispatch=True)
        self.read()

    def restore_again(self):
        """Put back the same backup, one of after the recovery, or one of the middle of the recovery."""
        if self.second == "newer":
            self.restorable.back_up()
        self.anybody(6, may_dispatch=True)
        self.read()
        self.restore_and_recover(self.restorable.restore, _Source(self), restart=self.second == "during")
        self.enter("after")
        self.anybody(4, may_dispatch=True)

    def read(self):
        """Read the feed as a partner does: no number comes again for another event, none below the last."""
        self.sequencer.go_round()
        with self.bridge.engine.begin() as connection:
            page = feed_page(connection, PARTNER_ID, after=max(self.seen, default=0), limit=PAGE)
            everything = feed_page(connection, PARTNER_ID, after=0, limit=PAGE)
        for event in page:
            assert self.seen.setdefault(event.sequence, event.event_id) == event.event_id
        for event in everything:
            assert self.seen.get(event.sequence) == event.event_id, f"missed or reused {event.sequence}"

    def settle(self):
        """Let everything go on; operators look at what is parked and unplaced until nothing is left."""
        self.enter("settling")
        for number in range(MAX_ROUNDS):
            self.go_on()
            parked = self.restorable.rows("SELECT 1 FROM operations WHERE status = 'parked'")
            unplaced = self.actors.unplaced()
            if not parked and not unplaced:
                break
            for _ in parked:
                self.actors.act("look_at_parked")
            for _ in unplaced:
                self.actors.act("accept_unplaced" if number % 3 < 2 else "dismiss_unplaced")
        self.read()

    def judge_acts(self):
        """Everybody whose act could be wrong has acted, and met the gate exactly where it was closed.

        Return which acts on unplaced documents were done: one of them when all are of one lost payment.
        """
        counted = self.actors.counted
        for act in IN_THE_WINDOW:
            outcome, other = ("waits", "done") if self.is_noticed else ("done", "waits")
            assert counted["window", act, outcome], (act, counted)
            assert not counted["window", act, other], (act, counted)
            assert not counted["recovering", act, "done"], (act, counted)
            # the recovery that a backup has brought back keeps the gate closed by itself
            is_closed = self.is_noticed or self.second == "during"
            assert not counted["second window", act, "done" if is_closed else "waits"], (act, counted)
        assert counted["window", SENT_AGAIN, "done"] >= 2, counted
        # at the first try, or once what stood in its way was settled
        done = {
            act for act in AFTERWARDS if counted["after", act, "done"] or counted["settling", act, "done"]
        }
        assert done, counted
        return done

    def judge(self):
        """Compare the books of SAP with those of the bridge."""
        operations = self.restorable.operations()
        assert [row for row in operations if row.status not in ("succeeded", "rejected", "cancelled")] == []
        assert self.actors.unplaced() == []
        succeeded = [row for row in operations if row.status == "succeeded"]
        recorded = {
            f"{row.sap_company_code}/{row.sap_fiscal_year}/{row.sap_document_number}" for row in succeeded
        }
        assert len(recorded) == len(succeeded)
        in_sap = {str(posted.found.document) for posted in self.bridge.sap.posted}
        misfits = recorded ^ (in_sap - self.actors.written_off)
        external_ids = {
            posted.external_id for posted in self.bridge.sap.posted if str(posted.found.document) in misfits
        }
        assert not misfits, "\n".join((str(misfits), *map(self.history, external_ids)))
        references = self.restorable.references()
        assert len(references) == len(set(references))
        self.judge_amounts()

    def judge_amounts(self):
        """No money went out beyond what was captured: by SAP's own books, whatever the bridge's say."""
        books = defaultdict(lambda: defaultdict(int))
        for posted in self.bridge.sap.posted:
            if str(posted.found.document) not in self.actors.written_off:
                kind = OperationKind.REVERSE if posted.is_reversal else read_mark(posted.mark)[0]
                books[posted.external_id][kind] += posted.found.amount.minor
        for external_id, book in books.items():
            captured = book[OperationKind.PAYMENT] + book[OperationKind.CAPTURE]
            shown = (dict(book), self.history(external_id))
            assert captured <= AMOUNT_MINOR, shown
            assert book[OperationKind.REFUND] <= captured, shown
            assert not (book[OperationKind.CAPTURE] and book[OperationKind.REVERSE]), shown
            assert book[OperationKind.AUTHORIZE] <= AMOUNT_MINOR, shown

    def history(self, external_id):
        """What SAP and the bridge have of it, for whoever reads a failure."""
        sap = [
            f"{posted.mark[0]}{' of a reversal' if posted.is_reversal else ''} {posted.reference} "
            f"{posted.found.document} {posted.found.amount.minor}"
            for posted in self.bridge.sap.posted
            if posted.external_id == external_id
        ]
        bridge = [
            " ".join(map(str, row))
            for row in self.restorable.rows(
                "SELECT payment_id, payment.status, position, kind, operation.amount_minor, operation.status,"
                " failure_code, parked_reason, sap_reference, sap_document_number, operation.created_at"
                " FROM payments AS payment JOIN operations AS operation USING (payment_id)"
                " WHERE external_id = :external_id ORDER BY payment.created_at, position",
                external_id=external_id,
            )
        ]
        return "\n".join((external_id, "SAP:", *sap, "bridge:", *bridge))

    def told(self):
        """What this seed came to, in a line."""
        overtaken = self.restorable.rows("SELECT 1 FROM operations WHERE failure_code = 'overtaken'")
        refused = sum(count for (*_, outcome), count in self.actors.counted.items() if outcome == "waits")
        return (
            f"{'noticed' if self.is_noticed else 'begun by hand'}, second restore: {self.second}, "
            f"{len(self.bridge.sap.posted)} documents, {len(self.actors.written_off)} written off, "
            f"{len(overtaken)} steps overtaken, {refused} decisions refused, {len(self.seen)} events read"
        )


class _Source:
    """SAP's list of documents, read while the actors go on; `backs_up`: a backup is made in the middle."""

    def __init__(self, drill, *, backs_up=False):
        self.drill, self.backs_up = drill, backs_up

    def documents_since(self, day, offset):
        if self.backs_up:
            self.backs_up = False
            self.drill.restorable.back_up()
        self.drill.anybody(1, may_dispatch=False)
        return self.drill.bridge.sap.documents_since(day, offset)
