"""What Terraform names and gives is what the code names and reads."""

import json
import re
from collections.abc import Mapping

import pytest
import terraform_rules as rules
import yaml
from terraform_stage import REPOSITORY

from backoffice.settings import Settings as BackofficeSettings
from bridge import messages
from bridge.gcp.tasks import DISPATCH_DEADLINE_SECONDS
from bridge.storage import erase, migrate
from devstack import topics
from devstack.logins import ROLES
from dispatcher.dead_letters import settings as dead_letters_settings
from dispatcher.settings import Settings as DispatcherSettings
from gateway.discovery import JWKS_PATH
from gateway.settings import Settings as GatewaySettings
from gateway.signing_keys import BUNDLE
from partners.settings import Settings as PartnersSettings
from sap_adapter.recover import Settings as RecoverySettings
from sap_adapter.settings import Settings as AdapterSettings
from sap_mock.settings import Settings as SapMockSettings
from webhooks.settings import Settings as WebhooksSettings

pytestmark = pytest.mark.terraform

READERS = {
    "gateway": GatewaySettings,
    "sap_adapter": AdapterSettings,
    "webhooks": WebhooksSettings,
    "partners": PartnersSettings,
    "backoffice": BackofficeSettings,
    "dispatcher": DispatcherSettings,
    "dispatcher.dead_letters": dead_letters_settings.Settings,
    "bridge.storage.migrate": migrate.Settings,
    "bridge.storage.erase": erase.Settings,
    "sap_adapter.recover": RecoverySettings,
    "sap_mock": SapMockSettings,
}
# for a machine without Google: on Cloud Run these are refused or have no meaning
LOCAL_ONLY = {
    "DATABASE_URL",
    "PUBSUB_EMULATOR_HOST",
    "FIRESTORE_EMULATOR_HOST",
    "CLOUD_TASKS_EMULATOR_HOST",
    "WEBHOOK_ALLOW_HTTP_LOOPBACK",
    "PUSH_AUTHENTICATION",
    "TRACES_FILE",
    "KMS_EMULATOR_HOST",
}
# where a load balancer stands before the API Gateway
OPTIONAL = {"EDGE_KEY"}
# HOST by the image, PORT and K_SERVICE by Cloud Run
BY_THE_PLATFORM = {"HOST": "0.0.0.0", "PORT": "8080", "K_SERVICE": "a-service"}  # noqa: S104


class Environment(Mapping):
    """An environment that remembers what was asked of it."""

    def __init__(self, values):
        self._values = values
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return self._values[name]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)


def processes(resources):
    """Each process: (module, environment), as Cloud Run would start it."""
    environments = {}
    for resource, variable in rules.variables(resources):
        environments.setdefault(resource.address, {})[variable["name"]] = variable["value"] or "from-a-secret"
    for resource in resources:
        if resource.address in environments:
            template = resource.values["template"][0]
            containers = (template.get("template") or [template])[0]["containers"]
            yield containers[0]["args"][0], environments[resource.address]


def test_topics_subscriptions_and_the_queue_have_the_names_of_the_code(applied, environment):
    tfvars = (REPOSITORY / f"terraform/environments/{environment}.tfvars").read_text(encoding="utf-8")
    systems = re.findall(
        r"^  (\S+) += \d+$", tfvars.partition("sap_systems = {")[2].partition("}")[0], re.MULTILINE
    )
    carriers = {messages.EVENTS_TOPIC, *map(messages.operations_topic, systems)}
    everything = carriers | {messages.dead_letter_topic(topic) for topic in carriers}
    assert {topic.values["name"] for topic in rules.of(applied, "google_pubsub_topic")} == everything
    subscriptions = rules.of(applied, "google_pubsub_subscription")
    assert {each.values["name"] for each in subscriptions} == set(map(messages.push_subscription, everything))
    queues = rules.of(applied, "google_cloud_tasks_queue")
    assert [queue.values["name"] for queue in queues] == [messages.WEBHOOK_QUEUE]
    dead = {each.values["name"]: each.values["dead_letter_policy"] for each in subscriptions}
    for topic in carriers:
        [policy] = dead[messages.push_subscription(topic)]
        assert policy["dead_letter_topic"].endswith("/" + messages.dead_letter_topic(topic))


def test_the_local_stack_pushes_as_terraform_does(applied):
    for subscription in rules.of(applied, "google_pubsub_subscription"):
        assert subscription.values["ack_deadline_seconds"] == topics.ACK_DEADLINE_SECONDS
        [retry] = subscription.values["retry_policy"]
        assert retry["minimum_backoff"] == f"{topics.MIN_BACKOFF_SECONDS}s"
        assert retry["maximum_backoff"] == f"{topics.MAX_BACKOFF_SECONDS}s"
        for policy in subscription.values["dead_letter_policy"]:
            assert policy["max_delivery_attempts"] == topics.MAX_DELIVERY_ATTEMPTS


def test_pushes_go_to_routes_that_exist(applied):
    # docs/api.md, Private routes
    expected = {
        "payment-operations-": ("bridge-sap-adapter", "/pubsub/operations"),
        "payment-events": ("bridge-webhooks", "/pubsub/events"),
    }
    for subscription in rules.of(applied, "google_pubsub_subscription"):
        endpoint = subscription.values["push_config"][0]["push_endpoint"]
        name = subscription.values["name"]
        service, path = next(to for start, to in expected.items() if name.startswith(start))
        if name.endswith(rules.DEAD_LETTERS):
            service, path = "bridge-dead-letters", "/pubsub/dead-letters"
        assert re.fullmatch(rf"https://{service}-\d+\.[a-z0-9-]+\.run\.app{path}", endpoint), name


def test_a_task_may_take_as_long_as_its_deadline(applied):
    [webhooks] = [
        each
        for each in rules.of(applied, "google_cloud_run_v2_service")
        if each.values["name"] == "bridge-webhooks"
    ]
    assert webhooks.values["template"][0]["timeout"] == f"{DISPATCH_DEADLINE_SECONDS}s"


def test_every_process_is_given_what_it_reads_takes_it_and_is_given_no_more(applied, tmp_path):
    connections = tmp_path / "sap-connections.json"
    connections.write_text('{"s4-main": {"base_url": "https://sap.invalid", "user": "u", "password": "p"}}')
    seen = set()
    for module, given in processes(applied):
        seen.add(module)
        # a mounted file that is read as the settings are
        readable = given | (
            {"SAP_CONNECTIONS_FILE": str(connections)} if "SAP_CONNECTIONS_FILE" in given else {}
        )
        environment = Environment(readable | BY_THE_PLATFORM)
        READERS[module].from_environment(environment)
        needed = environment.read - LOCAL_ONLY - BY_THE_PLATFORM.keys()
        assert needed - OPTIONAL <= given.keys() <= needed, module
    assert seen >= READERS.keys() - {"sap_mock"}


def test_each_process_logs_in_to_the_database_with_its_own_role(applied):
    logins = {
        module: environment["DATABASE_USER"]
        for module, environment in processes(applied)
        if "DATABASE_USER" in environment
    }
    assert len(set(logins.values())) == len(logins)
    users = {user.values["name"] for user in rules.of(applied, "google_sql_user")}
    assert set(logins.values()) == users
    [migration] = [
        environment for module, environment in processes(applied) if module == "bridge.storage.migrate"
    ]
    granted = json.loads(migration["DATABASE_LOGINS"])
    assert set(granted) <= set(ROLES)
    roles = {module.rpartition(".")[2]: login for module, login in logins.items()}
    roles["retention"] = roles.pop("erase")
    roles["recovery"] = roles.pop("recover")
    assert granted == {role: login for role, login in roles.items() if role != "migrate"}
    # the migration alone may make tables
    assert {user.key for user in rules.of(applied, "google_sql_user") if user.values["database_roles"]} == {
        "migrate"
    }


def test_the_refund_window_is_the_same_for_who_refuses_and_who_erases(applied):
    windows = [env["REFUND_WINDOW_DAYS"] for _, env in processes(applied) if "REFUND_WINDOW_DAYS" in env]
    assert len(windows) == 2
    assert len(set(windows)) == 1


def test_signing_keys_are_mounted_under_the_name_that_the_gateway_looks_for(applied):
    [gateway] = [
        each
        for each in rules.of(applied, "google_cloud_run_v2_service")
        if each.values["name"] == "bridge-gateway"
    ]
    files = {
        volume["name"]: volume["secret"][0]["items"][0]["path"]
        for volume in gateway.values["template"][0]["volumes"]
    }
    assert files["token-signing-keys"] == BUNDLE


def test_whoever_gets_a_ring_may_unwrap_it_and_nobody_else(applied):
    readers = {
        each.key: set(each.values["members"])
        for each in rules.of(applied, "google_secret_manager_secret_iam_binding")
        if each.values["role"] == "roles/secretmanager.secretAccessor"
    }
    unwrappers = {
        each.key: set(each.values["members"])
        for each in rules.of(applied, "google_kms_crypto_key_iam_binding")
        if each.values["role"] == "roles/cloudkms.cryptoKeyDecrypter"
    }
    assert unwrappers == {
        "party-data": readers["party-key-ring"],
        "webhook-secrets": readers["webhook-key-ring"],
    }


def test_the_api_gateway_gets_this_specification_and_the_public_keys(applied):
    import base64  # noqa: PLC0415

    [config] = rules.of(applied, "google_api_gateway_api_config")
    contents = config.values["openapi_documents"][0]["document"][0]["contents"]
    document = yaml.safe_load(base64.b64decode(contents))
    source = yaml.safe_load((REPOSITORY / "terraform/api-gateway.yaml").read_text(encoding="utf-8"))
    assert document["paths"].keys() == source["paths"].keys()
    token = document["securityDefinitions"]["access_token"]
    [bucket] = rules.of(applied, "google_storage_bucket")
    assert token["x-google-jwks_uri"] == f"https://storage.googleapis.com/{bucket.values['name']}{JWKS_PATH}"
    [gateway] = [environment for module, environment in processes(applied) if module == "gateway"]
    assert token["x-google-issuer"] == gateway["TOKEN_ISSUER"]
    assert token["x-google-audiences"] == gateway["TOKEN_AUDIENCE"]
