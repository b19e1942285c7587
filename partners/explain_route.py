"""The use case: say where a payment of an amount would be posted, and why."""

from dataclasses import asdict
from typing import Any

from bridge.errors import FieldError
from bridge.money import InvalidMoneyError, Money, require_payable
from bridge.partner import PartnerConfiguration
from partners.documents import invalid


def explain_route(partner: PartnerConfiguration, value: str, currency: str) -> dict[str, Any]:
    """Return the target, the rule that chose it (None: the default), and the rules that were looked at.

    `mapped_kinds` are the operations that can be posted there. RejectedError (422) for what is no amount.
    """
    amount = _amount(value, currency)
    explanation = partner.routing.explain(amount)
    target = partner.targets[explanation.target]
    return {
        "partner_id": partner.partner_id,
        "version": partner.version,
        "amount": amount.as_json(),
        "target": explanation.target,
        "sap_system": target.sap_system,
        "company_code": target.company_code,
        "time_zone": target.time_zone,
        "mapped_kinds": sorted(target.mappings),
        "rule": explanation.rule,
        "considered": [asdict(one) for one in explanation.considered],
    }


def _amount(value: str, currency: str) -> Money:
    try:
        require_payable(currency)
    except InvalidMoneyError as error:
        raise invalid(FieldError("/currency", str(error))) from error
    try:
        return Money.parse(value, currency)
    except InvalidMoneyError as error:
        raise invalid(FieldError("/amount", str(error))) from error
