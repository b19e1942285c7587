"""Mistakes that somebody will make: each is refused, in words that say where and why."""

from dataclasses import dataclass

import pytest
import terraform_rules as rules
from terraform_stage import copy_of

pytestmark = pytest.mark.terraform


@dataclass(frozen=True)
class Mistake:
    """`old` becomes `new` in a file; `refused` is a part of what is said then."""

    file: str
    old: str
    new: str
    refused: str


NOT_VALID = {
    "a misspelt argument": Mistake(
        "messaging.tf", "ack_deadline_seconds       =", "ack_deadline_second        =", "Unsupported argument"
    ),
    "a missing argument": Mistake(
        "messaging.tf",
        '    push_endpoint = "${local.urls[each.value.service]}${each.value.path}"\n',
        "",
        'The argument "push_endpoint" is required',
    ),
    "a misspelt block": Mistake(
        "messaging.tf", "dead_letter_policy {", "dead_letters_policy {", "Unsupported block"
    ),
    "a resource type that is none": Mistake(
        "dispatcher.tf",
        'google_cloud_run_v2_worker_pool" ',
        'google_cloud_run_v2_workerpool" ',
        "Invalid resource type",
    ),
    "an attribute that is none": Mistake(
        "messaging.tf",
        "google_service_account.push.email",
        "google_service_account.push.mail",
        "Unsupported attribute",
    ),
    "a value that is none": Mistake(
        "firestore.tf", '"FIRESTORE_NATIVE"', '"FIRESTORE"', "none of FIRESTORE_NATIVE, DATASTORE_MODE"
    ),
    "a beta resource without the beta provider": Mistake(
        "gateway.tf", "  provider = google-beta\n\n  api_id ", "  api_id ", "Invalid resource type"
    ),
}

# Refused when planned. A plan tells of all that is wrong with what it reaches, so several mistakes share one;
# what hides another (an ack deadline can't be too long and too short) is in another.
BEYOND_WHAT_THERE_IS = {
    "an ack deadline below the longest call to SAP": Mistake(
        "messaging.tf",
        "ack_deadline_seconds    = 120",
        "ack_deadline_seconds    = 60",
        "the longest SAP call with its lease (75 s)",
    ),
    "more delivery attempts than Pub/Sub takes": Mistake(
        "messaging.tf", "delivery_attempts = 100", "delivery_attempts = 101", "5 to 100 delivery attempts"
    ),
    "a longer backoff than Pub/Sub takes": Mistake(
        "messaging.tf", 'maximum_backoff   = "600s"', 'maximum_backoff   = "900s"', "600 s at most"
    ),
    "a faster queue than there is": Mistake(
        "tasks.tf", "dispatches_per_second = 500", "dispatches_per_second = 501", "500 dispatches per second"
    ),
    "more connections than the database has": Mistake(
        "environments/staging.tfvars",
        "max_connections      = 300",
        "max_connections      = 100",
        "more than max_connections",
    ),
}
NOT_FOR_CLOUD_RUN = {
    "an ack deadline beyond what Pub/Sub takes": Mistake(
        "messaging.tf", "ack_deadline_seconds    = 120", "ack_deadline_seconds    = 601", "and 600 s"
    ),
    "a service that anybody may call": Mistake(
        "services.tf",
        "[google_service_account.api_gateway.member, google_service_account.deployer.member]",
        '["allUsers"]',
        "No service is public",
    ),
    "a variable that Cloud Run keeps for itself": Mistake(
        "services.tf",
        "      TOKENS_PER_MINUTE ",
        '      PORT = "8080"\n      TOKENS_PER_MINUTE ',
        "Cloud Run sets PORT",
    ),
}
OPEN = {
    "a service that is open and checks nobody": Mistake(
        "services.tf",
        'module          = "webhooks"\n      ingress         = "INGRESS_TRAFFIC_INTERNAL_ONLY"',
        'module          = "webhooks"\n      ingress         = "INGRESS_TRAFFIC_ALL"',
        "bridge-webhooks is reachable from outside and nobody's token is checked",
    ),
}
NOT_PLANNED = (BEYOND_WHAT_THERE_IS, NOT_FOR_CLOUD_RUN, OPEN)

# variables that production may not have: Terraform tells of all of them at once
NOT_TAKEN = {
    "the SAP mock in production": ({"sap_mock": "true"}, "the SAP mock never runs in production"),
    "an image by its tag": (
        {"services_image": "registry.invalid/bridge/services:latest"},
        "a tag can be moved",
    ),
    "production without a standby": (
        {
            "database": '{availability_type="ZONAL",backups=7,disk_size_gb=20,max_connections=800,'
            'tier="t",transaction_log_days=3}'
        },
        "production needs a standby",
    ),
    "production that may be deleted": (
        {"deletion_protection": "false"},
        "production keeps its deletion protection",
    ),
    "an API Gateway where there is none": (
        {"api_gateway_region": "europe-west3"},
        "not offered in this region",
    ),
    "everybody as a keeper of keys": ({"key_managers": '["allUsers"]'}, "never everybody"),
    "counters without an SLA": ({"redis": '{node_type="SHARED_CORE_NANO",replica_count=1}'}, "gives no SLA"),
    "nobody left to tell how things stand": (
        {
            "scaling": "{gateway={min=2,max=2},sap_adapter={min=1,max=1},webhooks={min=1,max=1},"
            "dead_letters={min=0,max=1},partners={min=0,max=1},backoffice={min=0,max=1},dispatcher={min=1,max=1}}"
        },
        "one backoffice at least is always there",
    ),
    "nowhere to go when the region is lost": ({"recovery_region": "europe-west3"}, "is another region"),
    "a SAP system of the events' name": ({"sap_systems": "{events=4}"}, 'not "events"'),
    "an issuer with a slash": ({"token_issuer": "https://api.example.com/"}, "without a path or a slash"),
}
# in a plan of their own: what depends on a variable is not looked at while that one is refused
WRONG_NAMES = {
    "a project with a domain in its id": (
        {"project_id": "example.com:bridge"},
        "An id with a domain (example.com:bridge) is not supported",
    ),
    "a region that is none": ({"region": "eu-west-3"}, "region is none of Cloud Run's in Europe"),
    "a domain that is an address": ({"public_domain": "https://api.example.com"}, "no https:// before it"),
    "links that lead nowhere": (
        {"repository_url": "forge.example.com/bridge/"},
        "repository_url begins with",
    ),
    "bounds for nobody": (
        {"scaling": "{gateway={min=1,max=1},backoffice={min=1,max=1}}"},
        "scaling names each process, and nothing else: backoffice, dead_letters, gateway, partners,",
    ),
    "a pager by its name": ({"pager_channels": '["PagerDuty"]'}, "as `gcloud beta monitoring channels list"),
}

# Terraform takes these; the rules do not. All in one configuration, as they do not hide one another.
AGAINST_THE_RULES = {
    "no dead letters": Mistake(
        "messaging.tf",
        """  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letters[each.key].id
    max_delivery_attempts = local.delivery_attempts
  }
""",
        "",
        "payment-events-push has no dead letter policy",
    ),
    "no grant on the dead-letter topic": Mistake(
        "messaging.tf",
        'resource "google_pubsub_topic_iam_binding" "dead_letters_publishers" {\n  for_each = local.carriers',
        'resource "google_pubsub_topic_iam_binding" "dead_letters_publishers" {\n  for_each = {}',
        "payment-events-push: Pub/Sub may not publish to its dead-letter topic",
    ),
    "no grant on the subscription": Mistake(
        "messaging.tf",
        'iam_binding" "carrier_subscribers" {\n  for_each = local.carriers',
        'iam_binding" "carrier_subscribers" {\n  for_each = {}',
        "payment-events-push: Pub/Sub may not acknowledge",
    ),
    "a subscription that expires": Mistake(
        "messaging.tf",
        'ttl = ""',
        'ttl = "2678400s"',
        "payment-events-push expires when nothing comes for 31 days",
    ),
    "no identity token": Mistake(
        "messaging.tf",
        """
    oidc_token {
      service_account_email = google_service_account.push.email
      audience              = local.push_audience
    }
""",
        "",
        "payment-events-push pushes without an identity token",
    ),
    "no retry policy": Mistake(
        "messaging.tf",
        """  retry_policy {
    minimum_backoff = local.minimum_backoff
    maximum_backoff = local.maximum_backoff
  }
""",
        "",
        "payment-events-push has no retry policy",
    ),
    "everybody publishes": Mistake(
        "messaging.tf",
        'members = [google_service_account.process["dispatcher"].member]',
        'members = ["allUsers"]',
        "gives roles/pubsub.publisher to everybody",
    ),
    "a role on everything": Mistake(
        "build.tf", '"roles/monitoring.viewer"', '"roles/editor"', "gives roles/editor"
    ),
    "one account for two processes": Mistake(
        "dispatcher.tf",
        'service_account = google_service_account.process["dispatcher"].email',
        'service_account = google_service_account.process["gateway"].email',
        "shares the account of",
    ),
    "a network with subnetworks everywhere": Mistake(
        "network.tf",
        "auto_create_subnetworks         = false",
        "auto_create_subnetworks         = true",
        "is a default network",
    ),
    "a job outside the network": Mistake(
        "jobs.tf",
        """      vpc_access {
        egress = each.value.egress
        network_interfaces {
          subnetwork = local.subnetwork_ids["services"]
        }
      }
""",
        "",
        "is not in our network",
    ),
    "a database that may be deleted": Mistake(
        "database.tf",
        "deletion_protection_enabled = var.deletion_protection",
        "deletion_protection_enabled = false",
        "may be deleted from the console",
    ),
    "a database with a public address": Mistake(
        "database.tf", "ipv4_enabled       = false", "ipv4_enabled       = true", "has a public address"
    ),
    "a secret in clear": Mistake(
        "services.tf",
        "      TOKENS_PER_MINUTE ",
        '      STORE_PASSWORD = "hunter2"\n      TOKENS_PER_MINUTE ',
        "gives STORE_PASSWORD in clear",
    ),
}


@pytest.mark.parametrize("name", NOT_VALID)
def test_validate_refuses(copy, name):
    mistake = NOT_VALID[name]
    copy.replace(mistake.file, mistake.old, mistake.new)
    assert mistake.refused in _unwrapped(copy.run("validate", fails=True))


@pytest.fixture(scope="module")
def refused_plans(initialized, terraform_environment, tmp_path_factory):
    """Mistake: what the plan said that had it."""
    said = {}
    for number, mistakes in enumerate(NOT_PLANNED):
        folder = tmp_path_factory.mktemp(f"not-planned-{number}")
        copy = copy_of(initialized, folder, terraform_environment)
        for mistake in mistakes.values():
            copy.replace(mistake.file, mistake.old, mistake.new)
        said |= dict.fromkeys(mistakes, _unwrapped(copy.plan("staging", fails=True)))
    return said


@pytest.mark.parametrize(("name", "mistake"), [each for mistakes in NOT_PLANNED for each in mistakes.items()])
def test_a_plan_refuses(refused_plans, name, mistake):
    assert mistake.refused in refused_plans[name]


@pytest.fixture(scope="module")
def refused_variables(initialized):
    return [
        _unwrapped(
            initialized.plan(
                "prod",
                fails=True,
                **{name: value for given, _ in mistakes.values() for name, value in given.items()},
            )
        )
        for mistakes in (NOT_TAKEN, WRONG_NAMES)
    ]


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_production_does_not_take(refused_variables, name):
    assert NOT_TAKEN[name][1] in refused_variables[0]


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_name_that_is_none_is_refused_and_it_is_said_how_to_write_it(refused_variables, name):
    assert WRONG_NAMES[name][1] in refused_variables[1]


@pytest.fixture(scope="module")
def faults(initialized, terraform_environment, tmp_path_factory):
    copy = copy_of(initialized, tmp_path_factory.mktemp("against-the-rules"), terraform_environment)
    for mistake in AGAINST_THE_RULES.values():
        copy.replace(mistake.file, mistake.old, mistake.new)
    resources = copy.apply("staging")
    found = list(rules.incomplete_subscriptions(resources, longest_handler_seconds=75))
    for rule in (
        rules.public_grants,
        rules.broad_grants,
        rules.shared_accounts,
        rules.open_networks,
        rules.unprotected,
        rules.secrets_in_clear,
    ):
        found += rule(resources)
    return found


@pytest.mark.parametrize("name", AGAINST_THE_RULES)
def test_the_rules_refuse(faults, name):
    assert any(AGAINST_THE_RULES[name].refused in fault for fault in faults), faults


def _unwrapped(said):
    """Terraform breaks its lines and draws a frame; what it says is one text."""
    return " ".join(said.replace("│", " ").replace("╷", " ").replace("╵", " ").split())
