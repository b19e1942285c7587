"""The adapter's use case on a real database, with a SAP that follows a script and a clock turned by hand."""

from dataclasses import dataclass

from fakes.accepted import KEY_RING, NOW, PARTNER_ID, TARGET, dispatch, insert_accepted, insert_later_step
from fakes.in_memory_connector import InMemoryConnector
from sqlalchemy import Engine, text

from bridge.clock import ManualClock
from bridge.errors import TransientError
from bridge.lane import GuardSettings
from bridge.partner import PartnerConfiguration, PartnerStatus
from bridge.routing import Routing
from bridge.storage.migrate import add_sap_systems
from sap_adapter.classifier import Classifier
from sap_adapter.posting import Posting, PostingSettings
from sap_adapter.record import Recorder, RecordSettings

SETTLING_SECONDS = 60.0
READ_LAG_SECONDS = 5.0
LEASE_SECONDS = 40.0
GUARD = GuardSettings(3, 1.0, 5.0)


class OnePartner:
    """A directory that knows one partner."""

    def __init__(self):
        self.away = False
        self.configuration = PartnerConfiguration(
            partner_id=PARTNER_ID,
            version=1,
            name="Acme",
            status=PartnerStatus.ACTIVE,
            clients=(),
            targets={"main": TARGET},
            routing=Routing(default="main"),
        )

    def partner(self, partner_id):
        if self.away:
            raise TransientError("away")
        return self.configuration if partner_id == PARTNER_ID else None

    def by_client(self, client_id):
        client = self.configuration.client(client_id)
        return self.configuration if client else None


@dataclass
class Bridge:
    engine: Engine
    clock: ManualClock
    sap: InMemoryConnector
    directory: OnePartner
    posting: Posting
    wakes: list
    permits: dict
    service_engine: Engine

    def accept(self, kind="payment"):
        with self.engine.begin() as connection:
            return insert_accepted(connection, self.clock.now(), kind=kind)

    def queue(self, first_id, kind, amount_minor=125000):
        """Queue a later step behind what the payment has already."""
        with self.engine.begin() as connection:
            return insert_later_step(connection, first_id, kind, amount_minor, self.clock.now())

    def dispatch(self, operation_id):
        with self.engine.begin() as connection:
            return dispatch(connection, operation_id, self.clock.now())

    def step(self, operation_id):
        """Dispatch the operation and handle the message."""
        self.posting.handle(self.dispatch(operation_id))

    def row(self, operation_id):
        with self.engine.connect() as connection:
            return connection.execute(
                text("""
                SELECT operation.*, payment.status AS payment_status, payment.captured_minor,
                    payment.refunded_minor, outbox.not_before, outbox.identity AS outbox_row
                FROM operations AS operation JOIN payments AS payment USING (payment_id)
                LEFT JOIN outbox USING (operation_id) WHERE operation_id = :id
                """),
                {"id": operation_id},
            ).one()

    def events(self, operation_id):
        with self.engine.connect() as connection:
            return list(
                connection.execute(
                    text("SELECT event_type FROM events WHERE operation_id = :id ORDER BY identity"),
                    {"id": operation_id},
                ).scalars()
            )

    def lane(self):
        with self.engine.connect() as connection:
            return connection.execute(text("SELECT * FROM sap_systems")).one()

    def busy_slots(self):
        with self.engine.connect() as connection:
            return connection.execute(
                text("SELECT count(*) FROM sap_slots WHERE lease_until > :now"), {"now": self.clock.now()}
            ).scalar_one()


def make_bridge(engine, service_engine=None, *, clock=None, sap=None):
    """`service_engine` has the adapter's own rights; the owner's `engine` looks and sets up.

    Nobody waits for a permit, unless a queue is put into `permits`. `clock` and `sap`: another than its own.
    """
    with engine.begin() as connection:
        add_sap_systems(connection, {"s4-main": 4})
    clock, sap = clock or ManualClock(NOW), sap or InMemoryConnector()
    directory, wakes, permits = OnePartner(), [], {}
    service_engine = service_engine or engine
    recorder = Recorder(
        service_engine, KEY_RING, Classifier.from_package(), clock,
        RecordSettings(SETTLING_SECONDS, READ_LAG_SECONDS, 1.0, GUARD), lambda: wakes.append(1),
    )  # fmt: skip
    posting = Posting(
        service_engine, directory, {"s4-main": sap}, KEY_RING, recorder, clock,
        PostingSettings(call_seconds=30.0, lease_margin_seconds=LEASE_SECONDS - 30.0), permits,
    )  # fmt: skip
    return Bridge(engine, clock, sap, directory, posting, wakes, permits, service_engine)
