"""A payment and its steps are read as of one moment, however many statements it takes."""

from contextlib import contextmanager

import pytest
from backoffice_stage import OPERATOR, make_backoffice
from gateway_stage import GatewayStage, new_payment
from sqlalchemy import event, text

pytestmark = pytest.mark.integration

BOOK = (
    "UPDATE payments SET status = 'paid', captured_minor = amount_minor WHERE payment_id = :id",
    """UPDATE operations SET status = 'succeeded', completed_at = created_at, sap_company_code = '1000',
           sap_fiscal_year = '2026', sap_document_number = '1400000001' WHERE payment_id = :id""",
)


class BookedInBetween:
    """Books the payment as soon as the first of a read's statements has been answered."""

    def __init__(self, reader, writer, payment_id):
        self._reader, self._writer, self._payment_id = reader, writer, payment_id
        self.is_booked = False

    def __enter__(self):
        event.listen(self._reader, "after_cursor_execute", self._book)
        return self

    def __exit__(self, *_):
        event.remove(self._reader, "after_cursor_execute", self._book)
        assert self.is_booked

    def _book(self, _connection, _cursor, statement, *_):
        if self.is_booked or "FROM payments" not in statement:
            return
        self.is_booked = True
        with self._writer.begin() as connection:
            for update in BOOK:
                connection.execute(text(update), {"id": self._payment_id})


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    yield made
    made.close()


def require_one_moment(shown):
    (operation,) = shown["operations"]
    seen = (shown["status"], shown["captured"]["value"], operation["status"])
    assert seen in {("accepted", "0.00", "accepted"), ("paid", "1250.00", "succeeded")}


def one(stage, _body):
    (row,) = stage.rows("payments")
    return stage.call("GET", f"/v1/payments/{row['payment_id']}").json


def listed(stage, _body):
    return stage.call("GET", "/v1/payments").json["data"][0]


def by_external_id(stage, body):
    wanted = {"external_id": body["external_id"]}
    return stage.call("GET", "/v1/payments", query_string=wanted).json["data"][0]


def replayed(stage, body):
    return stage.pay(body, key="k-1").json


def replayed_in_a_batch(stage, body):
    batch = {"payments": [body | {"idempotency_key": "k-1"}]}
    return stage.call("POST", "/v1/payments/batch", json=batch).json["results"][0]["payment"]


@pytest.mark.parametrize("read", [one, listed, by_external_id, replayed, replayed_in_a_batch])
def test_a_partner_never_reads_a_payment_older_than_its_own_operation(stage, read):
    """It took two statements: 4 % of reads showed `accepted` and 0.00 beside a succeeded operation."""
    body = new_payment()
    made = stage.pay(body, key="k-1").json
    with BookedInBetween(stage.engine, stage.owner, made["id"]):
        require_one_moment(read(stage, body))


def test_an_operator_never_reads_a_payment_older_than_its_own_operation(database):
    with contextmanager(make_backoffice)(database) as backoffice:
        operation_id = backoffice.bridge.accept()
        payment_id = backoffice.bridge.row(operation_id).payment_id
        with BookedInBetween(backoffice.engine, database.engine, payment_id):
            answer = backoffice.client.get(f"/admin/payments/{payment_id}", headers=OPERATOR)
    require_one_moment(answer.json)
