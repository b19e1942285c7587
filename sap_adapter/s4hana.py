"""The connector to S/4HANA: SOAP to post, OData V2 to ask. One pooled session per SAP system."""

import http.cookiejar
import re
from dataclasses import dataclass
from datetime import date
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError

from bridge.clock import Clock
from bridge.errors import SettingsError, TransientError, UnknownOutcomeError
from sap_adapter import journal_entry
from sap_adapter.connector import (
    DocumentPage,
    Entry,
    FoundDocument,
    JournalFacts,
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
PAGE_ITEMS = 500
MAX_ANSWER_BYTES = 1024 * 1024
# What journal_entry writes the reference to. In any other field SAP answers "none", twice, and we post again.
REFERENCE_FIELDS = frozenset({"DocumentReferenceID", "OriginalReferenceDocument"})
MAX_RETRY_AFTER_SECONDS = 3600.0
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class SapConnection:
    """Where a SAP system is and who we are there.

    The fields are OData's: of our reference, of the logical system that a document came from, of the day it
    was entered.
    """

    base_url: str
    user: str
    password: str
    reference_field: str = "DocumentReferenceID"
    logical_system_field: str = "ReferenceDocumentLogicalSystem"
    created_on_field: str = "AccountingDocumentCreationDate"

    def __post_init__(self) -> None:
        """SettingsError for a field that carries no reference of ours: nothing would ever be found."""
        if self.reference_field not in REFERENCE_FIELDS:
            raise SettingsError(f"reference_field is none of {', '.join(sorted(REFERENCE_FIELDS))}")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one call may take, in seconds: to connect, and to wait for each part of the answer."""

    connect_seconds: float
    read_seconds: float

    @property
    def call_seconds(self) -> float:
        """The longest a call takes, also when SAP's answer comes in drops."""
        return self.connect_seconds + self.read_seconds


class S4HanaConnector:
    """Implements sap_adapter.connector.Connector."""

    def __init__(
        self, connection: SapConnection, timeouts: Timeouts, *, max_calls: int, clock: Clock
    ) -> None:
        self._connection = connection
        self._timeouts = timeouts
        self._clock = clock
        self._session = requests.Session()
        self._session.auth = (connection.user, connection.password)
        # No proxies, no .netrc: where SAP is and who we are is configured, not found in the environment.
        self._session.trust_env = False
        # No cookies: one call's SAP session would be shared by the others that run at the same time.
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
        # No retries: whether a call may be repeated is decided by the claim, not by the transport.
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=max_calls, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def render(self, facts: JournalFacts) -> Entry:
        """Return the `JournalEntry` element."""
        return journal_entry.render(facts)

    def with_posting_date(self, content: bytes, posting_date: date) -> bytes:
        """Return the `JournalEntry` element for another posting date."""
        return journal_entry.with_posting_date(content, posting_date)

    def post(self, sending: Sending) -> Posted | Refused:
        """Post one journal entry (docs/sap.md: a refusal comes with HTTP 200)."""
        status, headers, content = self._call(
            "POST",
            SOAP_PATH,
            data=envelope(sending),
            headers={"Content-Type": "text/xml; charset=utf-8", "SOAPAction": f'"{SOAP_ACTION}"'},
        )
        if status == 429 or (status == 503 and "Retry-After" in headers):
            raise TransientError(
                f"SAP takes no more calls now (HTTP {status})",
                retry_after_seconds=self._retry_after_seconds(headers),
                is_overload=True,
            )
        if status != 200:
            raise UnknownOutcomeError(f"SAP answered HTTP {status}", is_overload=status == 503)
        return read_confirmation(content)

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
            status, headers, content = self._call("GET", ODATA_PATH, params=parameters)
        except UnknownOutcomeError as error:
            raise TransientError(str(error)) from error
        if status != 200:
            raise TransientError(
                f"SAP answered HTTP {status} to a question",
                retry_after_seconds=self._retry_after_seconds(headers),
                is_overload=status in (429, 503),
            )
        return content

    def _call(self, method: str, path: str, **request: Any) -> tuple[int, Any, bytes]:
        give_up_at = self._clock.monotonic() + self._timeouts.call_seconds
        try:
            with self._session.request(
                method,
                self._connection.base_url + path,
                timeout=(self._timeouts.connect_seconds, self._timeouts.read_seconds),
                allow_redirects=False,
                stream=True,
                **request,
            ) as response:
                content = bytearray()
                # what is there, not a whole chunk: drops must not keep us past the lease
                while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise UnknownOutcomeError("SAP's answer is too long")
                    if self._clock.monotonic() > give_up_at:
                        raise UnknownOutcomeError("SAP's answer takes too long")
                return response.status_code, response.headers, bytes(content)
        except (requests.RequestException, HTTPError) as error:
            if _nothing_was_sent(error):
                raise TransientError("SAP can't be reached") from error
            raise UnknownOutcomeError(f"the call to SAP broke off ({type(error).__name__})") from error

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


def _nothing_was_sent(error: Exception) -> bool:
    """Tell whether the connection was never there: the only failures that surely posted nothing."""
    reason: object = error
    while isinstance(reason, BaseException):
        if isinstance(reason, NewConnectionError | ConnectTimeoutError | NameResolutionError):
            return True
        inner = getattr(reason, "reason", None)
        if not isinstance(inner, BaseException):
            inner = reason.args[0] if reason.args else None
        reason = inner
    return False


def _literal(value: str) -> str:
    """Quote an OData V2 string literal."""
    return "'" + value.replace("'", "''") + "'"
