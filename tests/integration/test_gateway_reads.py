"""Reading: one payment, its timeline, the list, the feed; never anything of another partner."""

import pytest
from gateway_stage import GatewayStage, new_payment
from sqlalchemy import text

from bridge.storage.feed import sequence_events

pytestmark = pytest.mark.integration


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    yield made
    made.close()


def sequence(stage):
    with stage.owner.begin() as connection:
        for partner in (stage.partner, stage.stranger):
            sequence_events(connection, partner.partner_id, limit=100)


def ids(answer):
    assert answer.status_code == 200
    return [entry["id"] for entry in answer.json["data"]]


def paid(stage, count, **options):
    """That many payments, a second apart; the newest first."""
    made = []
    for _ in range(count):
        stage.clock.advance(1)
        made.append(stage.pay(**options).json["id"])
    return made[::-1]


def test_what_belongs_to_another_partner_is_not_found(stage):
    body = stage.pay().json
    for path in (f"/v1/payments/{body['id']}", f"/v1/payments/{body['id']}/events"):
        assert stage.call("GET", path).status_code == 200
        assert stage.call("GET", path, "other").status_code == 404
    assert ids(stage.call("GET", "/v1/payments", "other")) == []
    sequence(stage)
    assert ids(stage.call("GET", "/v1/events", "other")) == []
    assert len(ids(stage.call("GET", "/v1/events"))) == 1


@pytest.mark.parametrize("payment_id", ["pay_00000000000000000000000000", "x", "%00", "'", "x" * 3000])
def test_a_payment_that_does_not_exist_is_not_found(stage, payment_id):
    for path in (f"/v1/payments/{payment_id}", f"/v1/payments/{payment_id}/events"):
        assert stage.call("GET", path).status_code == 404


def test_the_timeline_tells_what_happened_oldest_first(stage):
    body = stage.pay().json
    with stage.owner.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO events (event_id, partner_id, payment_id, event_type, data, created_at)
            SELECT 'evt_later', partner_id, payment_id, 'payment.paid', data, created_at FROM events
            """)
        )
    before = stage.call("GET", f"/v1/payments/{body['id']}/events").json["data"]
    assert [(event["type"], event["sequence"]) for event in before] == [
        ("payment.accepted", None),
        ("payment.paid", None),
    ]
    assert before[0]["data"]["payment"]["id"] == body["id"]
    assert "metadata" not in before[0]["data"]["payment"]
    assert before[0]["timestamp"] == body["created_at"]
    sequence(stage)
    after = stage.call("GET", f"/v1/payments/{body['id']}/events").json["data"]
    assert after[0]["sequence"] == 1


def add_events(stage, payment_id, count):
    """More events of the payment, all of one moment."""
    with stage.owner.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO events (event_id, partner_id, payment_id, event_type, data, created_at)
            SELECT 'evt_' || lpad(CAST(CAST(:count AS integer) - number AS text), 26, '0'), partner_id,
                   payment_id, 'payment.refunded', data, created_at
            FROM events, generate_series(1, CAST(:count AS integer)) AS number
            WHERE payment_id = :payment_id
            ORDER BY number
            """),
            {"payment_id": payment_id, "count": count},
        )


def test_the_timeline_pages_through_everything_once_oldest_first(stage):
    path = f"/v1/payments/{stage.pay().json['id']}/events"
    add_events(stage, path.split("/")[3], 6)
    everything = stage.call("GET", path)
    assert everything.json["next_cursor"] is None
    seen, cursor = [], ""
    while cursor is not None:
        answer = stage.call("GET", f"{path}?limit=3&cursor={cursor}")
        seen.append(ids(answer))
        cursor = answer.json["next_cursor"]
    assert [len(page) for page in seen] == [3, 3, 1]
    assert [event for page in seen for event in page] == ids(everything)


def test_a_timeline_has_no_end_at_a_thousand_events(stage):
    path = f"/v1/payments/{stage.pay().json['id']}/events"
    add_events(stage, path.split("/")[3], 1100)
    seen, cursor = [], ""
    while cursor is not None:
        answer = stage.call("GET", f"{path}?limit=500&cursor={cursor}")
        seen += ids(answer)
        cursor = answer.json["next_cursor"]
    assert len(seen) == len(set(seen)) == 1101
    assert len(ids(stage.call("GET", path))) == 100


def test_a_cursor_of_another_timeline_points_nowhere(stage):
    first, second = (f"/v1/payments/{stage.pay().json['id']}/events" for _ in range(2))
    add_events(stage, first.split("/")[3], 2)
    cursor = stage.call("GET", f"{first}?limit=1").json["next_cursor"]
    assert stage.call("GET", f"{first}?cursor={cursor}").status_code == 200
    assert stage.call("GET", f"{second}?cursor={cursor}").status_code == 400
    assert stage.call("GET", f"{first}?cursor={cursor}", "other").status_code == 400
    for broken in ("x", "%00", "ZXZ0Xw==", "z" * 3000, "%C3%A4"):
        assert stage.call("GET", f"{first}?cursor={broken}").status_code == 400


def test_the_list_pages_through_everything_once_newest_first(stage):
    expected = paid(stage, 7)
    paid(stage, 2, client_id="other")
    seen, cursor = [], ""
    while cursor is not None:
        answer = stage.call("GET", f"/v1/payments?limit=3&cursor={cursor}")
        seen.append(ids(answer))
        cursor = answer.json["next_cursor"]
    assert seen == [expected[:3], expected[3:6], expected[6:]]


def test_a_last_page_that_is_full_has_no_next(stage):
    paid(stage, 2)
    assert stage.call("GET", "/v1/payments?limit=2").json["next_cursor"] is None


def test_payments_of_one_millisecond_are_paged_without_loss(stage):
    expected = {stage.pay().json["id"] for _ in range(5)}
    first = stage.call("GET", "/v1/payments?limit=2")
    second = stage.call("GET", f"/v1/payments?limit=5&cursor={first.json['next_cursor']}")
    assert set(ids(first)) | set(ids(second)) == expected
    assert len(ids(first)) + len(ids(second)) == 5


def test_a_payment_in_the_list_is_the_payment(stage):
    body = stage.pay().json
    assert stage.call("GET", "/v1/payments").json["data"] == [body]


def test_the_list_can_be_narrowed(stage):
    first = stage.pay(new_payment(external_id="INV-1")).json
    stage.clock.advance(10)
    second = stage.pay(new_payment(external_id="INV-2", requested_execution_date="2026-12-24")).json
    moment = second["created_at"]
    for query, expected in (
        ("status=accepted", [first]),
        ("status=scheduled", [second]),
        ("external_id=INV-1", [first]),
        ("external_id=INV-1&status=scheduled", []),
        (f"created_from={moment}", [second]),
        (f"created_to={moment}", [first]),
        ("created_from=2026-11-20T13:00:00.123%2B01:00", [second, first]),
        ("created_from=2026-11-20T13:00:01+01:00", [second]),
        ("created_from=2026-11-20T13:00:01.123456789+01:00", [second]),
    ):
        assert stage.call("GET", f"/v1/payments?{query}").json["data"] == expected, query


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=ten",
        "limit=",
        "limit=-1",
        "limit=%D9%A1",
        "status=unknown",
        "created_from=yesterday",
        "created_from=2026-11-20",
        "created_to=2026-11-20T12:00:00",
        "cursor=abc",
        "cursor=WyJ4IiwgMV0=",
        "cursor=WyIyMDI2LTExLTIwVDEyOjAwOjAwIiwgInBheV8xIl0=",
        "external_id=%00",
        "created_from=0001-01-01T00:00:00%2B14:00",
        "created_from=2026-02-30T00:00:00Z",
        "cursor=WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwgInBheSJd",
    ],
)
def test_a_parameter_that_cannot_be_read_is_malformed(stage, query):
    answer = stage.call("GET", f"/v1/payments?{query}")
    assert answer.status_code == 400
    assert answer.json["type"].endswith("/problems/malformed-request")


def test_the_feed_is_read_after_a_sequence(stage):
    empty = stage.call("GET", "/v1/events")
    assert (empty.status_code, empty.json) == (200, {"data": [], "last_sequence": 0, "epoch": 1})
    payments = paid(stage, 3)[::-1]
    assert ids(stage.call("GET", "/v1/events")) == []
    sequence(stage)
    page = stage.call("GET", "/v1/events?limit=2").json
    assert [event["sequence"] for event in page["data"]] == [1, 2]
    assert [event["data"]["payment"]["id"] for event in page["data"]] == payments[:2]
    assert set(page["data"][0]) == {"id", "sequence", "type", "timestamp", "data"}
    assert (page["last_sequence"], page["epoch"]) == (2, 1)
    rest = stage.call("GET", "/v1/events?after=2").json
    assert ([event["sequence"] for event in rest["data"]], rest["last_sequence"]) == ([3], 3)
    end = stage.call("GET", "/v1/events?after=3").json
    assert (end["data"], end["last_sequence"]) == ([], 3)


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "after=", "after=9223372036854775808", "limit=501", "limit=0"]
)
def test_a_place_in_the_feed_that_cannot_be_is_malformed(stage, query):
    assert stage.call("GET", f"/v1/events?{query}").status_code == 400


def test_events_that_are_not_kept_any_more_are_gone_not_skipped(stage):
    paid(stage, 4)
    sequence(stage)
    with stage.owner.begin() as connection:
        connection.execute(text("DELETE FROM feed WHERE sequence <= 2"))
        connection.execute(text("INSERT INTO expired_feeds SELECT partner_id, 2 FROM feed_counters"))
    for after in (0, 1):
        answer = stage.call("GET", f"/v1/events?after={after}")
        assert answer.status_code == 410
        assert answer.json["type"].endswith("/problems/feed-expired")
        assert "after=2." in answer.json["detail"]
    assert stage.call("GET", "/v1/events?after=2").json["last_sequence"] == 4
    with stage.owner.begin() as connection:
        connection.execute(text("DELETE FROM feed"))
        connection.execute(text("UPDATE expired_feeds SET expired_to = 4"))
    assert stage.call("GET", "/v1/events?after=3").status_code == 410
    assert stage.call("GET", "/v1/events?after=4").json["last_sequence"] == 4
    stage.pay()
    sequence(stage)
    assert stage.call("GET", "/v1/events?after=4").json["last_sequence"] == 5


def test_a_reader_is_not_led_past_a_number_that_is_missing(stage):
    paid(stage, 3)
    sequence(stage)
    with stage.owner.begin() as connection:
        connection.execute(text("UPDATE feed SET sequence = 1002 WHERE sequence = 2"))
    for after in (0, 1):
        answer = stage.call("GET", f"/v1/events?after={after}")
        assert (answer.status_code, answer.json["last_sequence"]) == (200, 1)
    with stage.owner.begin() as connection:
        connection.execute(text("UPDATE feed SET sequence = 2 WHERE sequence = 1002"))
    assert stage.call("GET", "/v1/events?after=1").json["last_sequence"] == 3


def test_the_end_of_all_sequences_is_an_empty_page(stage):
    answer = stage.call("GET", "/v1/events?after=9223372036854775807")
    assert (answer.status_code, answer.json["data"]) == (200, [])


def test_when_all_connections_are_taken_it_is_unavailable(stage):
    stage.engine.pool._timeout = 0.1
    held = [stage.engine.connect() for _ in range(16)]
    answer = stage.call("GET", "/v1/payments")
    for connection in held:
        connection.close()
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert stage.call("GET", "/v1/payments").status_code == 200
