"""Schemathesis on our OpenAPI document: values that a bank would know, payments to work on, and a tally."""

import itertools
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import events, from_schema
from schemathesis.hooks import unregister
from stdnum import iban

from bridge.money import Money
from gateway.parameters import cursor_after

PAY = "POST /v1/payments"
# They follow one id from its creation to its end; which one a case has is ours to say (_give_meaning).
NOT_WITH_OUR_IDS = ("ensure_resource_availability", "use_after_free")
# Schemathesis' own without 5xx, and 413: what is wrong by being long may be longer than a body may be.
REFUSALS = (400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429)
LIMIT_HEADERS = ("RateLimit-Policy", "RateLimit")
# Digits after the decimal point: two, none, three.
CURRENCIES = ("EUR", "USD", "GBP", "CHF", "PLN", "JPY", "KWD")
OTHER_IBANS = (
    "AT611904300234573201",
    "BE71096123456769",
    "CH5604835012345678009",
    "FR1420041010050500013M02606",
    "GB33BUKB20201555555555",
    "NL02ABNA0123456789",
    "NO8330001234567",
    "PL10105000997603123456789123",
)


def register_formats(today, webhook_url):
    """Register what the formats of our document mean. `today` is the day of the gateway's clock.

    `webhook_url` may be registered.
    """
    # the decimals that every currency has: none; the hook below gives those that have some theirs
    amounts = st.integers(1, 10**13 - 1) | st.integers(1, 10_000)
    moments = st.datetimes(timezones=st.just(UTC))
    formats = {
        "iban": st.integers(10**17, 10**18 - 1).map(german_iban) | st.sampled_from(OTHER_IBANS),
        "iso-4217": st.sampled_from(CURRENCIES),
        "amount": amounts.map(str),
        "external-id": st.uuids().map(lambda number: f"INV-{number.hex[:28]}"),
        "webhook-url": st.just(webhook_url),
        "idempotency-key": st.uuids().map(str),
        "date": st.integers(1, 360).map(lambda days: (today + timedelta(days=days)).isoformat()),
        "date-time": moments.map(datetime.isoformat),
        "cursor": moments.map(
            lambda moment: cursor_after(SimpleNamespace(created_at=moment, payment_id="pay_1"))
        ),
    }
    for name, strategy in formats.items():
        schemathesis.openapi.format(name, strategy)


def german_iban(number):
    """Return the IBAN of any account of a German bank."""
    return f"DE{iban.calc_check_digits(f'DE00{number}')}{number}"


def strict(document):
    """Return the document with no leave for members that it does not name: clients bear them, we don't."""
    for name, schema in document["components"]["schemas"].items():
        if name.endswith(("Answer", "Page", "EventData")):
            schema["additionalProperties"] = False
    return document


@dataclass
class Report:
    """What was tried, by operation and status, and what was wrong with the answers."""

    statuses: Counter = field(default_factory=Counter)
    failures: list = field(default_factory=list)

    @property
    def cases(self):
        return sum(self.statuses.values())

    def share(self, label, status):
        of_it = sum(count for (name, _), count in self.statuses.items() if name == label)
        return self.statuses[label, status] / of_it if of_it else 0.0

    def __str__(self):
        rows = [f"{count:6} {status} {label}" for (label, status), count in sorted(self.statuses.items())]
        accepted = f"{self.share(PAY, 202):.0%} of {PAY} were accepted"
        return "\n".join([*rows, f"{self.cases:6} cases; {accepted}", *self.failures])


def fuzz(schema, ids_of, token, report):
    """Send everything that Schemathesis thinks of and add it to the report.

    `ids_of`: for each path parameter, ids that exist and are the partner's, in several states. `token()` is a
    valid access token.
    """
    ids = {name: itertools.cycle(known) for name, known in ids_of.items()}

    @schema.auth()
    class Token:
        def get(self, _case, _context):
            return token()

        def set(self, case, data, _context):
            if case.operation.path.startswith("/v1/"):
                case.headers["Authorization"] = f"Bearer {data}"

    @schemathesis.hook
    def before_call(context, case, kwargs):
        _give_meaning(case, ids)

    @schema.hook
    def after_call(context, case, response):
        report.statuses[case.operation.label, response.status_code] += 1
        described = _described(schema.raw_schema, case.operation, response.status_code)
        for name in LIMIT_HEADERS:
            if name.lower() in response.headers and name not in described.get("headers", {}):
                report.failures.append(f"{case.operation.label}: {response.status_code} with {name}")

    try:
        for event in from_schema(schema).execute():
            report.failures += list(_failures(event))
    finally:
        unregister(before_call)


def _described(document, operation, status):
    """Return what the document says of the operation's answers with the status, {} if nothing."""
    answer = document["paths"][operation.path][operation.method.lower()]["responses"].get(str(status), {})
    if "$ref" in answer:
        return document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    return answer


def _failures(event):
    match event:
        case events.ScenarioFinished():
            for checks in event.recorder.checks.values():
                for check in checks:
                    if check.failure_info:
                        failure = check.failure_info.failure
                        sent = check.failure_info.code_sample
                        yield f"{failure.operation}: {failure.title}\n{failure.message}\n{sent}"
        case events.NonFatalError():
            yield f"{event.label}: {event.info.title} {event.info.message}"
        case events.FatalError():
            raise event.exception


def _give_meaning(case, ids):
    """Give valid cases what no single value's shape can say; what is wrong on purpose stays wrong."""
    valid = {place for place in ParameterLocation if not (case.meta and case.meta.is_negative_at(place))}
    if ParameterLocation.HEADER in valid and "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    # what is deleted would be missed by the others: a deletion finds its own by what was created before
    if ParameterLocation.PATH in valid and case.method != "DELETE":
        for name in ids.keys() & (case.path_parameters or {}).keys():
            case.path_parameters[name] = next(ids[name])
    if ParameterLocation.QUERY in valid and "payment_id" in (case.path_parameters or {}):
        # a cursor of a timeline is one of its events
        (case.query or {}).pop("cursor", None)
    if ParameterLocation.BODY in valid and isinstance(case.body, dict):
        of_a_payment = "payment_id" in (case.path_parameters or {})
        payments = case.body.get("payments")
        for payment in payments if isinstance(payments, list) else [case.body]:
            _mend(payment, of_a_payment=of_a_payment)


def _mend(payment, *, of_a_payment):
    """Mend what follows a pattern, but not what its format means. An item of a batch may be anything."""
    match payment:
        case {"amount": {"value": str(value), "currency": str(currency)} as amount}:
            # all the decimals that the currency has: 1250 is 12.50 EUR, 1250 JPY, 1.250 KWD
            digits = re.sub("[^0-9]", "", value).lstrip("0")[:13] or "1"
            amount["currency"] = currency if currency in CURRENCIES and not of_a_payment else "EUR"
            amount["value"] = Money(int(digits), amount["currency"]).value
    match payment:
        case {"since": str(), "only": str()}:
            payment["since"] = "2026-01-01T00:00:00Z"
            payment.pop("until", None)
    match payment:
        case {"external_id": str()}:
            payment["external_id"] = f"INV-{uuid.uuid4().hex[:28]}"
    for party in ("debtor", "creditor"):
        match payment.get(party) if isinstance(payment, dict) else None:
            case {"account": {"iban": str(number)} as account} if not iban.is_valid(number):
                account["iban"] = german_iban(10**17 + len(number))


def schemas(document, examples, payment_examples, *, seed, without=()):
    """Return what to fuzz: everything with good and bad data, then the handing over of good payments alone.

    How much of the first is wrong on purpose is chance. `examples` are drawn for each operation beside the
    systematic cases, `payment_examples` for handing over a payment; `without` are checks to leave out.
    """
    everything, good = (
        schemathesis.openapi.from_dict(
            document, config=_configuration(examples, payment_examples, seed, without, mode)
        )
        for mode in ("all", "positive")
    )
    return everything, good.include(name=PAY)


def _configuration(examples, payment_examples, seed, without, mode):
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            # how long it takes to make an example says nothing about the gateway
            "suppress-health-check": ["too_slow"],
            "generation": {"max-examples": examples, "mode": mode},
            "operations": [{"include-name": PAY, "generation": {"max-examples": payment_examples}}],
            "checks": {name: {"enabled": False} for name in (*NOT_WITH_OUR_IDS, *without)}
            | {"negative_data_rejection": {"expected-statuses": list(REFUSALS)}},
        }
    )
