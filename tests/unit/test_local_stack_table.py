"""The table of what the local stack runs."""

from pathlib import Path

import pytest

from devstack.emulators import Emulators
from devstack.keys import load_or_create
from devstack.layout import PORTS, Layout
from devstack.postgres import Postgres
from devstack.services import services
from devstack.table import build_table
from devstack.units import dependents_of

pytestmark = pytest.mark.unit

NAMES_IN_THE_CONTRACT = {
    "postgres", "pubsub", "firestore", "cloud_tasks", "sap_mock", "receiver",
    "envoy", "gateway", "sap_adapter", "webhooks", "partners", "backoffice", "dead_letters", "dispatcher",
}  # fmt: skip


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path, 1000)


@pytest.fixture
def units(layout, tmp_path):
    emulators = Emulators("java", Path("pubsub.jar"), Path("firestore.jar"))
    postgres = Postgres(tmp_path / "postgres", layout.ports["postgres"])
    return {unit.name: unit for unit in build_table(layout, load_or_create(tmp_path), emulators, postgres)}


@pytest.fixture
def bridge_services(layout, tmp_path):
    postgres = Postgres(tmp_path / "postgres", layout.ports["postgres"])
    return services(layout, load_or_create(tmp_path), postgres)


def test_processes_have_the_names_of_the_contract(units):
    assert {name for name, unit in units.items() if not unit.is_step} == NAMES_IN_THE_CONTRACT


def test_every_process_with_a_port_is_given_the_shifted_one(units, layout):
    for name in PORTS:
        unit = units[name.removesuffix("_metrics")]
        told = " ".join((*unit.command, *unit.environment.values()))
        assert str(layout.ports[name]) in told
        assert str(PORTS[name]) not in told


def test_whatever_a_unit_waits_for_exists_and_nothing_waits_for_itself(units):
    for unit in units.values():
        assert set(unit.after) | set(unit.again_after) <= set(units)
        assert unit.name not in dependents_of(units, unit.name)


def test_every_service_has_database_rights_of_its_own_only(bridge_services):
    users = {
        unit.name: unit.environment["DATABASE_URL"].split("//")[1].split("@")[0] for unit in bridge_services
    }
    assert users == {name: f"{name}_login" for name in users}


def test_secrets_of_the_person_who_starts_it_reach_no_process(layout, tmp_path, monkeypatch):
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "HTTPS_PROXY", "K_SERVICE", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "stray-value")
    emulators = Emulators("java", Path("pubsub.jar"), Path("firestore.jar"))
    postgres = Postgres(tmp_path / "postgres", layout.ports["postgres"])
    for unit in build_table(layout, load_or_create(tmp_path), emulators, postgres):
        assert "stray-value" not in unit.environment.values()


def test_party_data_can_be_read_by_gateway_and_adapter_only(bridge_services, tmp_path):
    keys = load_or_create(tmp_path)
    holders = {unit.name for unit in bridge_services if str(keys.party_data) in unit.environment.values()}
    assert holders == {"gateway", "sap_adapter"}
    holders = {
        unit.name for unit in bridge_services if str(keys.webhook_secrets) in unit.environment.values()
    }
    assert holders == {"gateway", "webhooks"}


def test_without_envoy_the_gateway_itself_listens_on_the_partners_port(tmp_path):
    layout = Layout(tmp_path, 1000, has_edge=False)
    emulators = Emulators("java", Path("pubsub.jar"), Path("firestore.jar"))
    postgres = Postgres(tmp_path / "postgres", layout.ports["postgres"])
    units = {unit.name: unit for unit in build_table(layout, load_or_create(tmp_path), emulators, postgres)}
    assert "envoy" not in units
    assert "envoy" not in layout.ports
    assert units["gateway"].environment["PORT"] == "9080"
    assert layout.api == Layout(tmp_path, 1000).api == "http://127.0.0.1:9080"


def test_tokens_are_for_the_address_that_partners_use_and_the_edge_takes_them(units, layout):
    told = units["gateway"].environment
    assert told["PORT"] == "9081"
    assert told["TOKEN_ISSUER"] == told["TOKEN_AUDIENCE"] == layout.api
    assert {f"--token-issuer={layout.api}", f"--token-audience={layout.api}"} <= set(units["envoy"].command)
