"""The use cases: suspend a partner now or from a date on, hold its postings."""

from datetime import datetime
from typing import Any

from bridge.clock import read_moment
from bridge.errors import FieldError
from bridge.partner import PartnerConfiguration, PartnerStatus
from partners import documents
from partners.change import Partners, Wish

_MEMBERS = ("status", "effective_from")


def change_status_of(partners: Partners, wish: Wish, wanted: dict[str, Any]) -> PartnerConfiguration:
    """Set `status`; with `effective_from` (RFC 3339) as a dated change among the others.

    RejectedError as Partners.change, and 422 for a body of another shape.
    """
    errors = [FieldError(f"/{name}", "is not known here") for name in wanted if name not in _MEMBERS]
    status = wanted.get("status")
    if status not in [known.value for known in PartnerStatus]:
        errors.append(FieldError("/status", "is neither active nor suspended"))
    effective_from = None
    if wanted.get("effective_from") is not None:
        try:
            effective_from = read_moment(str(wanted["effective_from"]))
        except ValueError:
            errors.append(FieldError("/effective_from", "is not a date and time with its offset (RFC 3339)"))
    if errors:
        raise documents.invalid(*errors)

    def amend(document: dict[str, Any]) -> None:
        if effective_from is None:
            document["status"] = status
            return
        change = {"effective_from": effective_from.isoformat(), "status": status}
        changes = [*document["dated_changes"], change]
        document["dated_changes"] = sorted(
            changes, key=lambda each: datetime.fromisoformat(each["effective_from"])
        )

    return partners.amend(wish, f"partner.{status}", amend)


def change_posting_of(partners: Partners, wish: Wish, wanted: dict[str, Any]) -> PartnerConfiguration:
    """Set `posting` to active or held. RejectedError as `change_status_of`."""
    posting = wanted.get("posting")
    if set(wanted) != {"posting"} or posting not in ("active", "held"):
        raise documents.invalid(FieldError("/posting", "is neither active nor held, or not alone"))
    return partners.amend(
        wish, f"partner.posting_{posting}", lambda document: document.update(posting=posting)
    )
