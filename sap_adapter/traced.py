"""A connector whose calls are spans: how long SAP took, and what it answered, without its words."""

from datetime import date

from bridge.tracing import Tracer
from sap_adapter.connector import Connector, Entry, FoundDocument, JournalFacts, Posted, Refused, Sending


class TracedConnector:
    """See Connector."""

    def __init__(self, connector: Connector, tracer: Tracer, sap_system: str) -> None:
        self._connector = connector
        self._tracer = tracer
        self._attributes = {"rpc.system": "sap", "server.address": sap_system}

    def render(self, facts: JournalFacts) -> Entry:
        """See Connector."""
        return self._connector.render(facts)

    def with_posting_date(self, content: bytes, posting_date: date) -> bytes:
        """See Connector."""
        return self._connector.with_posting_date(content, posting_date)

    def post(self, sending: Sending) -> Posted | Refused:
        """See Connector."""
        attributes = {**self._attributes, "bridge.operation.id": sending.operation_id}
        with self._tracer.span("post journal entry", "client", attributes=attributes) as span:
            outcome = self._connector.post(sending)
            span.note({"bridge.sap.outcome": "posted" if isinstance(outcome, Posted) else "refused"})
            return outcome

    def find(self, company_code: str, reference: str) -> list[FoundDocument]:
        """See Connector."""
        with self._tracer.span("find journal entry", "client", attributes=self._attributes) as span:
            found = self._connector.find(company_code, reference)
            span.note({"bridge.sap.documents_found": len(found)})
            return found
