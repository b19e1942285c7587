"""`bridge partners …` over HTTP against the partners service on a real database."""

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
from argon2 import PasswordHasher
from fakes.partner_store import InMemoryPartnerStore
from joserfc.jwk import ECKey
from partner_documents import changed, new_partner
from sqlalchemy import create_engine
from stand_ins import REPOSITORY
from waiting import DEADLINE_SECONDS
from werkzeug.serving import make_server

from bridge.clock import ManualClock
from bridge.partner import PartnerStatus
from bridge.partner_mirror import PartnerMirror
from bridge.storage.migrate import add_sap_systems
from partners.app import create_app
from partners.settings import Settings

pytestmark = pytest.mark.integration

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WHY = ("--reason", "ticket 4711")


@pytest.fixture
def store():
    return InMemoryPartnerStore()


@pytest.fixture
def service(database, store):
    """The address of the service."""
    with database.engine.begin() as connection:
        add_sap_systems(connection, {"s4-main": 8})
    url = database.url_for("partners")
    settings = Settings.from_environment(
        {"DATABASE_URL": url, "GOOGLE_CLOUD_PROJECT": "test", "OPERATOR_AUTHENTICATION": "emulator"}
    )
    engine = create_engine(url, hide_parameters=True)
    server = make_server("127.0.0.1", 0, create_app(settings, store, engine, ManualClock(NOW)), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    engine.dispose()


def run_bridge(*arguments, given=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **environment},
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )


@pytest.fixture
def bridge(service):
    def run(*arguments, given=None, fails=False):
        done = run_bridge("partners", *arguments, given=given, BRIDGE_PARTNERS_URL=service, USER="olga")
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    return run


@pytest.fixture
def partner(store):
    made = new_partner("shop")
    store.put(made, None)
    return made


def audit(database):
    with database.engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT actor, action, reason FROM audit ORDER BY identity")
        return [tuple(row) for row in rows]


def test_a_partner_is_made_from_a_document_and_gets_a_client_whose_secret_is_shown_once(
    bridge, store, database
):
    template = new_partner().model_dump(mode="json", include={"name", "targets", "routing"})
    partner_id = bridge("create", "-", "--name", "Shop SE", *WHY, given=json.dumps(template)).strip()
    made = json.loads(bridge("clients", "add", partner_id, "--scope", "payments:write", *WHY))
    assert PasswordHasher().verify(store.get(partner_id).clients[0].secret_hash, made["client_secret"])
    assert store.find_by_client(made["client_id"]).name == "Shop SE"
    assert made["scopes"] == ["payments:write"]
    assert made["client_secret"] not in bridge("show", partner_id)
    actions = [action for _, action, _ in audit(database)]
    assert actions == ["partner.change", "partner.add_client"]
    assert {actor for actor, *_ in audit(database)} == {"olga"}


def test_a_client_that_signs_gets_no_secret(bridge, store, partner, tmp_path):
    key = ECKey.generate_key("P-256", {"kid": "k1"}).as_dict(private=False)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key]}))
    keys = ("--public-keys", str(tmp_path / "jwks.json"))
    made = json.loads(bridge("clients", "add", partner.partner_id, "--client-id", "signer", *keys, *WHY))
    assert made["client_secret"] is None
    assert store.find_by_client("signer").clients[1].secret_hash is None


def test_a_client_can_be_revoked_twice_and_its_id_stays_taken(bridge, store, partner, database):
    for _ in range(2):
        bridge("clients", "revoke", partner.partner_id, "shop", *WHY)
    assert store.get(partner.partner_id).client("shop") is None
    assert store.get(partner.partner_id).version == 2
    refused = bridge("clients", "add", partner.partner_id, "--client-id", "shop", *WHY, fails=True)
    assert "409 client-taken" in refused
    assert "404 not-found" in bridge("clients", "revoke", partner.partner_id, "nobody", *WHY, fails=True)
    assert [action for _, action, _ in audit(database)] == ["partner.revoke_client"]


def test_a_partner_is_suspended_and_resumed(bridge, store, partner, database):
    bridge("suspend", partner.partner_id, *WHY)
    assert store.get(partner.partner_id).status == PartnerStatus.SUSPENDED
    bridge("resume", partner.partner_id, *WHY)
    assert store.get(partner.partner_id).status == PartnerStatus.ACTIVE
    assert [(action, reason) for _, action, reason in audit(database)] == [
        ("partner.suspended", "ticket 4711"),
        ("partner.active", "ticket 4711"),
    ]


def test_a_suspension_can_be_dated_and_a_date_that_has_passed_is_refused(bridge, store, partner):
    bridge("suspend", partner.partner_id, "--from", "2026-03-02T00:00:00+01:00", *WHY)
    bridge("resume", partner.partner_id, "--from", "2026-03-01T13:00:01+00:00", *WHY)
    stored = store.get(partner.partner_id)
    assert stored.status == PartnerStatus.ACTIVE
    assert [change.status for change in stored.dated_changes] == ["active", "suspended"]
    for moment in ("2026-03-01T12:00:00Z", "2026-04-01", "soon"):
        refused = bridge("suspend", partner.partner_id, "--from", moment, *WHY, fails=True)
        assert "effective_from" in refused
    document = json.loads(bridge("show", partner.partner_id))
    document["dated_changes"][0]["effective_from"] = "2026-02-01T00:00:00Z"
    refused = bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document), fails=True)
    assert "/dated_changes/0/effective_from is not in the future" in refused


def test_a_partners_postings_are_held_and_released(bridge, store, partner, database):
    bridge("hold", partner.partner_id, *WHY)
    assert store.get(partner.partner_id).posting == "held"
    assert PartnerMirror(database.engine).get(partner.partner_id).configuration.posting == "held"
    bridge("release", partner.partner_id, *WHY)
    assert store.get(partner.partner_id).posting == "active"
    assert [action for _, action, _ in audit(database)] == ["partner.posting_held", "partner.posting_active"]


def test_an_amendment_goes_on_top_of_what_somebody_has_written_meanwhile(bridge, store, partner):
    inner, overtaking = store.put, [changed(partner, name="Overtaker")]

    def overtaken(document, expected_version):
        if overtaking:
            inner(overtaking.pop(), 1)
        inner(document, expected_version)

    store.put = overtaken
    bridge("suspend", partner.partner_id, *WHY)
    standing = store.get(partner.partner_id)
    assert (standing.name, standing.status, standing.version) == ("Overtaker", "suspended", 3)


def test_an_amendment_of_an_older_document_goes_above_what_readers_have_seen(
    bridge, store, partner, database
):
    newest = changed(changed(partner))
    PartnerMirror(database.engine).remember(newest, NOW)
    bridge("suspend", partner.partner_id, *WHY)
    assert store.get(partner.partner_id).version == newest.version + 1


def test_what_show_prints_can_be_edited_and_put_back_once(bridge, store, partner):
    document = json.loads(bridge("show", partner.partner_id)) | {"name": "Renamed"}
    bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document))
    assert store.get(partner.partner_id).name == "Renamed"
    assert store.get(partner.partner_id).clients == partner.clients
    late = bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document), fails=True)
    assert "412 version-conflict" in late


def test_mistakes_are_named_field_by_field(bridge, partner):
    document = json.loads(bridge("show", partner.partner_id)) | {"surprise": 1, "status": "odd"}
    refused = bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document), fails=True)
    assert "/surprise" in refused
    assert "/status" in refused
    assert "not JSON" in bridge("create", "-", *WHY, given="{", fails=True)
    assert "no version" in bridge("update", partner.partner_id, "-", *WHY, given="{}", fails=True)
    unknown = bridge("clients", "add", partner.partner_id, "--scope", "all", *WHY, fails=True)
    assert "/clients/1/scopes" in unknown


def test_the_list_shows_all_partners_and_names_a_damaged_document(bridge, store):
    partners = [new_partner(f"shop-{number}") for number in range(103)]
    for made in partners:
        store.put(made, None)
    store.plant(partners[50].partner_id, {"partner_id": partners[50].partner_id, "version": 1})
    listed = json.loads(bridge("list", "--json"))
    assert [each["partner_id"] for each in listed] == sorted(made.partner_id for made in partners)
    assert [each["status"] for each in listed].count("damaged") == 1
    assert partners[7].partner_id in bridge("list")


def test_the_schema_is_the_models(bridge):
    schema = json.loads(bridge("schema"))
    assert schema["title"] == "PartnerConfiguration"
    assert set(schema["required"]) >= {"partner_id", "clients"}


def test_without_a_service_or_a_name_one_line_says_so():
    silent = run_bridge("partners", "--url", "http://127.0.0.1:9", "list", USER="olga")
    assert (silent.returncode, silent.stdout) == (1, "")
    assert silent.stderr.count("\n") == 1
    assert "does not answer" in silent.stderr
    unnamed = run_bridge("partners", "--url", "https://partners.example", "list")
    assert unnamed.returncode == 2
    assert "BRIDGE_OPERATOR_TOKEN" in unnamed.stderr


def routed(store, partner, **routing):
    """Give the partner a second target and rules."""
    targets = {
        "main": partner.targets["main"],
        "us": partner.targets["main"].model_copy(update={"company_code": "2000"}),
    }
    store.put(changed(partner, targets=targets, routing={"default": "main", **routing}), partner.version)


TO_THE_US = {"name": "dollars", "currencies": ["USD"], "amount_from": "100", "target": "us"}


def test_a_route_is_explained_rule_by_rule(bridge, store, partner):
    routed(store, partner, rules=[TO_THE_US])
    told = bridge("explain-route", partner.partner_id, "250.00", "usd")
    assert "us: SAP system s4-main, company code 2000, by rule dollars" in told
    assert "payment" in told
    by_default = bridge("explain-route", partner.partner_id, "99.99", "USD")
    assert "main: SAP system s4-main, company code 1000, by the default" in by_default
    assert "99.99 is less than 100" in by_default


def test_a_route_is_explained_to_programs(bridge, store, partner):
    routed(store, partner, rules=[TO_THE_US])
    told = json.loads(bridge("explain-route", partner.partner_id, "5.00", "EUR", "--json"))
    assert (told["target"], told["rule"], told["version"]) == ("main", None, 2)
    assert told["considered"] == [{"rule": "dollars", "matches": False, "because": "EUR is none of USD"}]


@pytest.mark.parametrize(
    ("amount", "currency", "why"),
    [("1.234", "EUR", "/amount"), ("1.00", "XXX", "/currency"), ("0", "EUR", "/amount")],
)
def test_an_amount_that_is_none_has_no_route(bridge, partner, amount, currency, why):
    assert why in bridge("explain-route", partner.partner_id, amount, currency, fails=True)


def test_rules_are_changed_from_a_terminal_and_mistakes_named(bridge, store, partner):
    document = json.loads(bridge("show", partner.partner_id))
    document["routing"]["rules"] = [TO_THE_US]
    refused = bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document), fails=True)
    assert "routing names targets that are not there: us" in refused
    document["targets"]["us"] = document["targets"]["main"] | {
        "company_code": "2000",
        "sap_system": "s4-lost",
    }
    refused = bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document), fails=True)
    assert "/targets/us/sap_system is no SAP system of ours" in refused
    document["targets"]["us"]["sap_system"] = "s4-main"
    document["routing"]["rules"].append(TO_THE_US | {"name": "never"})
    refused = bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document), fails=True)
    assert "rule never is unreachable" in refused
    document["routing"]["rules"].pop()
    bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document))
    assert store.get(partner.partner_id).routing.rules[0].target == "us"


def test_a_mapping_is_tried_when_it_is_configured(bridge, store, partner):
    document = json.loads(bridge("show", partner.partner_id))
    mapping = document["targets"]["main"]["mappings"]["payment"]
    mapping["customer"] = {"jmespath": "metadata.customer"}
    refused = bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document), fails=True)
    assert "/targets/main/mappings/payment/customer gives nothing" in refused
    mapping["customer"] = {"jmespath": "metadata.customer || '10000001'"}
    mapping["header_text"] = {"jmespath": "debitor.name"}
    refused = bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document), fails=True)
    assert "/targets/main/mappings/payment/header_text names 'debitor', which no payment has" in refused
    del mapping["header_text"]
    bridge("update", partner.partner_id, "-", *WHY, given=json.dumps(document))
    assert store.get(partner.partner_id).targets["main"].mappings["payment"].customer.jmespath


SAMPLE = str(REPOSITORY / "docs" / "examples" / "payment.json")


def test_a_stored_mapping_is_tried_on_a_sample_payment(bridge, partner):
    printed = bridge("mapping", "try", SAMPLE, "--partner", partner.partner_id)
    assert printed.startswith("payment at main: SAP system s4-main, company code 1000, by the default\n")
    assert "<Debtor>10000001</Debtor>" in printed
    found = json.loads(bridge("mapping", "try", SAMPLE, "--partner", partner.partner_id, "--json"))
    assert (found["kind"], found["target"], found["rule"]) == ("payment", "main", None)


def test_a_mapping_that_is_not_stored_yet_is_tried_and_its_mistake_pointed_at(bridge, tmp_path):
    document = new_partner().model_dump(mode="json", include={"name", "targets", "routing"})
    document["targets"]["main"]["mappings"]["payment"]["customer"] = {"jmespath": "metadata.order"}
    (tmp_path / "partner.json").write_text(json.dumps(document))
    said = bridge("mapping", "try", SAMPLE, "--document", str(tmp_path / "partner.json"), fails=True)
    assert "the document gives no journal entry" in said
    assert "/targets/main/mappings/payment/customer" in said


@pytest.mark.parametrize("choice", [(), ("--partner", "par_x", "--document", SAMPLE)])
def test_a_trial_is_of_one_document(bridge, choice):
    assert "either --partner or --document" in bridge("mapping", "try", SAMPLE, *choice, fails=True)
