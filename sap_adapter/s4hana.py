"""The connector to S/4HANA: SOAP to post, OData V2 to ask. One pooled session per SAP system."""

import http.cookiejar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from bridge.clock import Clock
from bridge.errors import SettingsError, TransientError, UnknownOutcomeError
from bridge.web.deadlines import Deadlines, UnwatchedCallError
from bridge.web.transport import BoundedAdapter, Call, own_shortage
from sap_adapter import journal_entry
from sap_adapter.connector import (
    DocumentPage,
    Entry,
    FoundDocument,
    JournalFacts,
    NotCalledError,
    Posted,
    Refused,
    Sending,
)
from sap_adapter.posted_documents import FIELDS, WALK_FIELDS, read_documents, read_page
from sap_adapter.soap import SOAP_ACTION, envelope, read_confirmation

SOAP_PATH = "/sap/bc/srt/scs_ext/sap/journalentrycreaterequestconfi"
ODATA_PATH = "/sap/opu/odata/sap/API_OPLACCTGDOCITEMCUBE_SRV/A_OperationalAcctgDocItemCube"
KEY = ("CompanyCode", "FiscalYear", "AccountingDocument", "AccountingDocumentItem")
# The lines of a few hundred documents: well below the bytes of an answer.
# more than a document can have (999), so that one that fills a page does not stop the walk
PAGE_ITEMS = 1000
MAX_ANSWER_BYTES = 1024 * 1024
# What journal_entry writes the reference to. In any other field SAP answers "none", twice, and we post again.
REFERENCE_FIELDS = frozenset({"DocumentReferenceID", "OriginalReferenceDocument"})
MAX_RETRY_AFTER_SECONDS = 3600.0
CHUNK_BYTES = 64 * 1024
OVERLOAD_STATUSES = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class SapConnection:
    """Where a SAP system is and who we are there.

    The fields are OData's: of our reference, of the logical system that a document came from, of the day it
    was entered. `client`: SAP's client (`sap-client`) where it is not the system's default.
    `unposted_statuses`: which of 429 and 503 (with Retry-After) prove that nothing was posted. A proxy that
    had forwarded the call may answer 503 too: unless it is listed, SAP is asked first.
    """

    base_url: str
    user: str
    password: str
    reference_field: str = "DocumentReferenceID"
    logical_system_field: str = "ReferenceDocumentLogicalSystem"
    created_on_field: str = "AccountingDocumentCreationDate"
    client: str | None = None
    unposted_statuses: Sequence[int] = (429,)

    def __post_init__(self) -> None:
        """SettingsError for a field that carries no reference of ours: nothing would ever be found."""
        if self.client is not None and not re.fullmatch(r"[0-9]{3}", self.client):
            raise SettingsError("client is not three digits")
        if not OVERLOAD_STATUSES.issuperset(self.unposted_statuses):
            raise SettingsError("unposted_statuses has more than 429 and 503")
        if self.reference_field not in REFERENCE_FIELDS:
            raise SettingsError(f"reference_field is none of {', '.join(sorted(REFERENCE_FIELDS))}")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one call may take, in seconds: to connect, and to wait for each part of the answer."""

    connect_seconds: float
    read_seconds: float

    @property
    def call_seconds(self) -> float:
        """The longest a call takes, from the connection to the answer's last byte, however it comes."""
        return self.connect_seconds + self.read_seconds


class S4HanaConnector:
    """Implements sap_adapter.connector.Connector."""

    def __init__(
        self, connection: SapConnection, timeouts: Timeouts, *, max_calls: int, clock: Clock
    ) -> None:
        self._connection = connection
        self._timeouts = timeouts
        self._clock = clock
        deadlines = Deadlines(timeouts.call_seconds)
        self._postings = BoundedAdapter(deadlines, max_hosts=1, max_connections=max_calls)
        # An answer to a question names no request, and "none" may have a payment posted again: no question is
        # asked on a connection that has been used before.
        self._questions = BoundedAdapter(
            deadlines, max_hosts=1, max_connections=max_calls, reuses_connections=False
        )
        self._posting_session = _session(connection, self._postings)
        self._question_session = _session(connection, self._questions)

    def render(self, facts: JournalFacts) -> Entry:
        """Return the `JournalEntry` element."""
        return journal_entry.render(facts)

    def with_posting_date(self, content: bytes, posting_date: date) -> bytes:
        """Return the `JournalEntry` element for another posting date."""
        return journal_entry.with_posting_date(content, posting_date)

    def post(self, sending: Sending) -> Posted | Refused:
        """Post one journal entry (docs/sap.md: a refusal comes with HTTP 200)."""
        status, headers, content = self._call(
            self._posting_session,
            self._postings,
            "POST",
            SOAP_PATH,
            data=envelope(sending),
            headers={"Content-Type": "text/xml; charset=utf-8", "SOAPAction": f'"{SOAP_ACTION}"'},
        )
        wish = self._retry_after_seconds(headers)
        if status in self._connection.unposted_statuses and (status == 429 or "Retry-After" in headers):
            raise TransientError(
                f"SAP takes no more calls now (HTTP {status})", retry_after_seconds=wish, is_overload=True
            )
        if status != 200:
            raise UnknownOutcomeError(
                f"SAP answered HTTP {status}",
                retry_after_seconds=wish if status in OVERLOAD_STATUSES else None,
                is_overload=status in OVERLOAD_STATUSES,
            )
        return read_confirmation(content, sending)

    def find(self, company_code: str, reference: str) -> list[FoundDocument]:
        """Read the documents with our reference. TransientError if SAP does not answer clearly."""
        field = self._connection.reference_field
        parameters = {
            "$filter": f"CompanyCode eq {_literal(company_code)} and {field} eq {_literal(reference)}",
            "$select": ",".join(FIELDS),
            "$format": "json",
        }
        return read_documents(self._ask(parameters))

    def documents_since(self, day: date, offset: int) -> DocumentPage:
        """Read a page of our documents that were entered on `day` or later. TransientError as in `find`."""
        connection = self._connection
        select = (*WALK_FIELDS, connection.reference_field)
        parameters = {
            "$filter": f"{connection.logical_system_field} eq {_literal(journal_entry.LOGICAL_SYSTEM)} and "
            f"{connection.created_on_field} ge datetime'{day.isoformat()}T00:00:00'",
            "$select": ",".join(select),
            "$orderby": ",".join(KEY),
            "$skip": str(offset),
            "$top": str(PAGE_ITEMS),
            "$format": "json",
        }
        content = self._ask(parameters)
        return read_page(
            content, offset=offset, page_items=PAGE_ITEMS, reference_field=connection.reference_field
        )

    def _ask(self, parameters: dict[str, str]) -> bytes:
        try:
            status, headers, content = self._call(
                self._question_session, self._questions, "GET", ODATA_PATH, params=parameters
            )
        except UnknownOutcomeError as error:
            raise TransientError(str(error)) from error
        if status != 200:
            raise TransientError(
                f"SAP answered HTTP {status} to a question",
                retry_after_seconds=self._retry_after_seconds(headers),
                is_overload=status in OVERLOAD_STATUSES,
            )
        return content

    def _call(
        self, session: requests.Session, adapter: BoundedAdapter, method: str, path: str, **request: Any
    ) -> tuple[int, Any, bytes]:
        """Return status, headers and body. TransientError if not a byte of the request can have arrived."""
        try:
            with adapter.call() as call:
                try:
                    return self._exchange(session, call, method, path, **request)
                except (requests.RequestException, HTTPError, OSError) as error:
                    if not call.may_have_arrived:
                        raise _not_sent(error) from error
                    reason = (
                        "SAP's answer takes too long"
                        if call.deadline.has_passed
                        else f"the call to SAP broke off ({type(error).__name__})"
                    )
                    raise UnknownOutcomeError(reason) from error
        except UnwatchedCallError as error:
            raise NotCalledError(str(error)) from error

    def _exchange(
        self, session: requests.Session, call: Call, method: str, path: str, **request: Any
    ) -> tuple[int, Any, bytes]:
        with session.request(
            method,
            self._connection.base_url + path,
            timeout=(self._timeouts.connect_seconds, self._timeouts.read_seconds),
            allow_redirects=False,
            stream=True,
            **request,
        ) as response:
            content = bytearray()
            while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise UnknownOutcomeError("SAP's answer is too long")
            # A connection that was shut down ends headers and body as if they were complete.
            call.deadline.check()
            return response.status_code, response.headers, bytes(content)

    def _retry_after_seconds(self, headers: Any) -> float | None:
        value = headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", value):
            seconds = float(value)
        else:
            try:
                seconds = (parsedate_to_datetime(value) - self._clock.now()).total_seconds()
            except (ValueError, TypeError, OverflowError):
                return None
        return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _session(connection: SapConnection, adapter: BoundedAdapter) -> requests.Session:
    session = requests.Session()
    session.auth = (connection.user, connection.password)
    if connection.client is not None:
        session.params = {"sap-client": connection.client}
    # No proxies, no .netrc: where SAP is and who we are is configured, not found in the environment.
    session.trust_env = False
    # No cookies: one call's SAP session would be shared by the others that run at the same time.
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _not_sent(error: Exception) -> TransientError:
    """Say whether SAP can't be reached or this process has nothing left to reach it with."""
    shortage = own_shortage(error)
    if shortage is not None:
        return NotCalledError(f"no connection could be made: {shortage}")
    return TransientError(f"SAP can't be reached ({type(error).__name__})")


def _literal(value: str) -> str:
    """Quote an OData V2 string literal."""
    return "'" + value.replace("'", "''") + "'"
