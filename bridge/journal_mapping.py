"""How a partner's operations become journal entries: data of its document, one mapping per kind.

A value is a constant, or an expression over the payment (JMESPath, jmespath.org) that bridge.mapping_values
evaluates. docs/mapping.md lists the members, and what an expression can name.
"""

from typing import Annotated, Literal

from pydantic import StringConstraints, model_validator

from bridge.document import DocumentPart

MAX_EXPRESSION_CHARACTERS = 500


class Expression(DocumentPart):
    """`{"jmespath": "metadata.customer || '10000001'"}`"""

    jmespath: Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS)]


DocumentType = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{2}$")]
Account = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,10}$")]
SpecialGlCode = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]$")]
ReversalReason = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{2}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=50)]


class JournalEntryMapping(DocumentPart):
    """How one kind of operation becomes a journal entry (docs/sap.md).

    The clearing account stands against a customer or a vendor. An authorisation is only noted: with the
    special G/L indicator on that line and the statistical account against it, both of which it needs. A
    reversal needs the reason that SAP is given.

    `posting_date`: the day of acceptance, or of the first attempt to post. `next_open_day`: if SAP says that
    the period is closed, post on the first day of the next month instead of parking.
    """

    document_type: DocumentType | Expression
    customer: Account | Expression | None = None
    vendor: Account | Expression | None = None
    clearing_account: Account | Expression
    statistical_account: Account | Expression | None = None
    special_gl_code: SpecialGlCode | Expression | None = None
    reversal_reason: ReversalReason | Expression = "01"
    header_text: Text | Expression = Expression(jmespath="kind")
    counterparty_text: Text | Expression | None = Expression(jmespath="remittance_information || debtor.name")
    assignment: Text | Expression | None = None
    header_reference: Text | Expression | None = None
    posting_date: Literal["acceptance", "posting"] = "posting"
    next_open_day: bool = False

    @model_validator(mode="after")
    def _against_one_partner(self) -> "JournalEntryMapping":
        if (self.customer is None) == (self.vendor is None):
            raise ValueError("name either a customer or a vendor")
        return self
