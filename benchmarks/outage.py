"""An outage of SAP with a backlog, and how it drains: played on a stage, and looked at twice a second."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import click

from benchmarks.load import Load, Result
from benchmarks.sap_stage import SapStage
from bridge.clock import SystemClock
from bridge.ids import new_id, sap_reference
from devstack.keys import SAP_USER
from sap_adapter.connector import Sending
from sap_adapter.s4hana import S4HanaConnector, SapConnection, Timeouts

CAPACITY_CALLS = 8
LATENCY_MS = 100
SMALL_PARTNER_PAYMENTS = 20
SETTLED_SECONDS = 10.0
SAMPLE_SECONDS = 0.5
CONNECTIONS = 4
# what is left when the end of the drain is no longer a full load
TAIL_PAYMENTS = 100
# What a demo partner's payment is in SAP: the clearing account's debit, the customer's credit.
ENTRY = """<JournalEntry><OriginalReferenceDocumentType>BKPFF</OriginalReferenceDocumentType>\
<OriginalReferenceDocument>{reference}</OriginalReferenceDocument>\
<OriginalReferenceDocumentLogicalSystem>PPBRIDGE</OriginalReferenceDocumentLogicalSystem>\
<BusinessTransactionType>RFBU</BusinessTransactionType><AccountingDocumentType>DZ</AccountingDocumentType>\
<DocumentReferenceID>{reference}</DocumentReferenceID><DocumentHeaderText>payment</DocumentHeaderText>\
<CreatedByUser>PPBRIDGE</CreatedByUser><CompanyCode>1000</CompanyCode><DocumentDate>{day}</DocumentDate>\
<PostingDate>{day}</PostingDate><Item><ReferenceDocumentItem>1</ReferenceDocumentItem>\
<GLAccount>113100</GLAccount><AmountInTransactionCurrency currencyCode="EUR">1250.00\
</AmountInTransactionCurrency><DebitCreditCode>S</DebitCreditCode></Item><DebtorItem>\
<ReferenceDocumentItem>2</ReferenceDocumentItem><Debtor>10000001</Debtor>\
<AmountInTransactionCurrency currencyCode="EUR">-1250.00</AmountInTransactionCurrency>\
<DebitCreditCode>H</DebitCreditCode></DebtorItem></JournalEntry>"""


@dataclass(frozen=True)
class Sample:
    """The lane at a moment; `seconds` since SAP went down, counts since the mock began."""

    seconds: float
    backlog: int
    call_window: int
    documents: int
    calls: int
    refused: int
    # processor time so far
    adapter_seconds: float
    dispatcher_seconds: float


@dataclass
class Outage:
    """What was measured. Rates per second; `capacity` is what direct callers get out of the same mock."""

    capacity: float
    before: Result
    during: Result
    window_before: int
    outage_seconds: float
    calls_during: int
    samples: list[Sample]
    small_partner_seconds: float = 0.0
    nacked: int = 0

    def drained(self) -> tuple[Sample, Sample]:
        """The first and last sample of the drain at full load: from ten seconds after the recovery on."""
        full = [
            sample
            for sample in self.samples
            if sample.seconds >= self.outage_seconds + SETTLED_SECONDS and sample.backlog > TAIL_PAYMENTS
        ]
        if len(full) < 2:
            raise RuntimeError("the backlog was too small to measure its drain")
        return full[0], full[-1]

    @property
    def drain_per_second(self) -> float:
        first, last = self.drained()
        return (last.documents - first.documents) / (last.seconds - first.seconds)

    @property
    def refused_share(self) -> float:
        first, last = self.drained()
        return (last.refused - first.refused) / max(1, last.calls - first.calls)

    def cpu_ms_per_payment(self) -> str:
        """What a payment costs the adapter and the dispatcher; says more than a rate on a busy machine."""
        first, last = self.drained()
        count = max(1, last.documents - first.documents)
        adapter = (last.adapter_seconds - first.adapter_seconds) * 1000 / count
        dispatcher = (last.dispatcher_seconds - first.dispatcher_seconds) * 1000 / count
        return f"{adapter:.1f} / {dispatcher:.1f}"


def play(stage: SapStage, load: Load, gateway_port: int, *, backlog: int, seconds: int) -> Outage:
    """Measure SAP's capacity, take SAP down, hand over a backlog, bring SAP back, watch it drain."""
    stage.faults(capacity=CAPACITY_CALLS, latency_ms=LATENCY_MS)
    capacity = direct_calls_per_second(stage, seconds=8.0)
    click.echo(f"SAP takes {capacity:.1f} calls/s from {CAPACITY_CALLS} direct callers", err=True)
    load.run(gateway_port, connections=CONNECTIONS, seconds=2)
    before = load.run(gateway_port, connections=CONNECTIONS, seconds=seconds)
    window_before = stage.scalar("SELECT call_window FROM sap_systems WHERE sap_system = 's4-main'")
    calls_before = stage.stats()["calls"]
    stage.faults(mode="down")
    down_at = time.monotonic()
    with watched(stage, down_at) as samples:
        during = load.run(gateway_port, connections=CONNECTIONS, seconds=seconds)
        waiting = stage.scalar("SELECT count(*) FROM outbox WHERE lane = 's4-main'")
        stage.hand_over("backlog", max(0, backlog - waiting))
        stage.hand_over("small", SMALL_PARTNER_PAYMENTS, partner=1)
        calls_during = stage.stats()["calls"] - calls_before
        stage.faults(capacity=CAPACITY_CALLS, latency_ms=LATENCY_MS)
        outage_seconds = time.monotonic() - down_at
        outage = Outage(capacity, before, during, window_before, outage_seconds, calls_during, samples)
        outage.small_partner_seconds = _until(lambda: _small_partner_waits(stage) == 0)
        click.echo(f"the small partner was done after {outage.small_partner_seconds:.1f} s", err=True)
        _until(lambda: samples[-1].backlog == 0)
    outage.nacked = sum(pusher.nacked for pusher in stage.pushers)
    return outage


class watched:  # noqa: N801 - used as a context manager
    """Sample the lane in a thread of its own."""

    def __init__(self, stage: SapStage, since: float) -> None:
        self._stage = stage
        self._since = since
        self._samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> list[Sample]:
        self._thread.start()
        return self._samples

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            stats = self._stage.stats()
            self._samples.append(
                Sample(
                    time.monotonic() - self._since,
                    self._stage.scalar("SELECT count(*) FROM outbox WHERE lane = 's4-main'"),
                    self._stage.scalar("SELECT call_window FROM sap_systems WHERE sap_system = 's4-main'"),
                    stats["documents"],
                    stats["calls"],
                    stats["refused"],
                    *self._stage.cpu_seconds(),
                )
            )


def direct_calls_per_second(stage: SapStage, *, seconds: float) -> float:
    """What SAP takes: as many callers as its capacity, each with the next call as soon as one is answered."""
    connection = SapConnection(
        stage.sap_url(), SAP_USER, stage.stage.keys.sap_password, unposted_statuses=(429, 503)
    )
    connector = S4HanaConnector(connection, Timeouts(2.0, 8.0), max_calls=CAPACITY_CALLS, clock=SystemClock())
    ends_at = time.monotonic() + seconds

    def call_until_the_end(_number: int) -> int:
        count = 0
        while time.monotonic() < ends_at:
            connector.post(_sending())
            count += 1
        return count

    with ThreadPoolExecutor(CAPACITY_CALLS) as pool:
        return sum(pool.map(call_until_the_end, range(CAPACITY_CALLS))) / seconds


def _sending() -> Sending:
    now = datetime.now(UTC)
    operation_id = new_id("op", now)
    content = ENTRY.format(reference=sap_reference(operation_id), day=now.date().isoformat())
    return Sending(operation_id, str(uuid4()), now, content.encode())


def _small_partner_waits(stage: SapStage) -> int:
    partner_id = stage.stage.keys.partners[1].partner_id
    waiting: int = stage.scalar(
        "SELECT count(*) FROM operations WHERE partner_id = :partner AND status <> 'succeeded'",
        partner=partner_id,
    )
    return waiting


def _until(condition: Callable[[], bool], *, timeout_seconds: float = 900.0) -> float:
    """Wait; return the seconds that it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_seconds:
            raise RuntimeError("the backlog did not drain")
        time.sleep(0.1)
    return time.monotonic() - started
