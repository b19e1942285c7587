"""fmt, validate, plan, and the rules that no provider checks, for staging and production."""

import base64
import json
import re
from collections import Counter

import alert_conditions
import pytest
import terraform_rules as rules
import yaml
from terraform_provider.answers import READER_ADDRESS
from terraform_stage import IMAGES, REPOSITORY

from bridge.errors import RejectedError
from dispatcher import liveness
from gateway.caller_address import CallerAddress

pytestmark = pytest.mark.terraform

LONGEST_CALL = re.compile(
    r"(connect_timeout_seconds|read_timeout_seconds|lease_margin_seconds) += optional\(number, (\d+)\)"
)


def longest_handler_seconds():
    variables = (REPOSITORY / "terraform/variables.tf").read_text(encoding="utf-8")
    return sum(int(seconds) for _, seconds in LONGEST_CALL.findall(variables))


def test_it_is_formatted_and_valid(initialized):
    initialized.run("fmt", "-check", "-recursive", "-diff")
    initialized.run("validate")


def test_terraform_tests_itself(initialized):
    variables = [f"-var={name}={value}" for name, value in IMAGES.items()]
    said = initialized.run("test", "-var-file=environments/prod.tfvars", *variables)
    assert re.search(r"Success! [1-9]\d* passed, 0 failed", said), said


RULES = [
    rules.public_grants,
    rules.broad_grants,
    rules.topics_without_subscription,
    rules.open_services,
    rules.shared_accounts,
    rules.open_networks,
    rules.unprotected,
    rules.secrets_in_clear,
    rules.impossible_queues,
    rules.images_by_tag,
    rules.impatient_probes,
    rules.silent_log_alerts,
    rules.crowded_nats,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no(rule, applied):
    assert list(rule(applied)) == []


def test_every_push_subscription_is_complete(applied):
    broken = rules.incomplete_subscriptions(applied, longest_handler_seconds=longest_handler_seconds())
    assert list(broken) == []
    assert len(rules.of(applied, "google_pubsub_subscription")) >= 4


def test_only_the_api_gateway_and_who_smokes_a_deployment_call_the_gateway_service(applied):
    callers = {
        resource.values["name"].rpartition("/")[2]: sorted(resource.values["members"])
        for resource in rules.of(applied, "google_cloud_run_v2_service_iam_binding")
        if resource.values["role"] == "roles/run.invoker"
    }
    [iap] = [
        each.values["member"]
        for each in rules.of(applied, "google_project_service_identity")
        if each.values["service"] == "iap.googleapis.com"
    ]
    assert [member.split("@")[0] for member in callers.pop("bridge-gateway")] == [
        "serviceAccount:bridge-api-gateway",
        "serviceAccount:bridge-deployer",
    ]
    assert callers == {"bridge-partners": [iap], "bridge-backoffice": [iap]}


def test_the_sap_mock_runs_in_staging_only(applied, environment):
    names = {service.values["name"] for service in rules.of(applied, "google_cloud_run_v2_service")}
    assert ("bridge-sap-mock" in names) == (environment == "staging")


def test_each_alert_tells_somebody_and_what_to_do(applied):
    alerts = yaml.safe_load((REPOSITORY / "terraform/alerts.yaml").read_text(encoding="utf-8"))
    policies = rules.of(applied, "google_monitoring_alert_policy")
    assert {policy.key for policy in policies} == alerts.keys() | {"availability", "latency"}
    for policy in policies:
        assert policy.values["notification_channels"], policy.address
        [documentation] = policy.values["documentation"]
        runbook = re.search(r"/docs/runbooks/([\w-]+)\.md$", documentation["links"][0]["url"])[1]
        assert (REPOSITORY / f"docs/runbooks/{runbook}.md").exists(), policy.address


def test_what_our_metrics_are_called_in_alerts_is_what_the_code_calls_them(applied):
    metrics = json.loads((REPOSITORY / "bridge/metrics.json").read_text(encoding="utf-8"))
    queries = [
        policy.values["conditions"][0]["condition_prometheus_query_language"][0]["query"]
        for policy in rules.of(applied, "google_monitoring_alert_policy")
        if policy.values["conditions"][0]["condition_prometheus_query_language"]
    ]
    [dashboard] = rules.of(applied, "google_monitoring_dashboard")
    text = "\n".join(queries) + dashboard.values["dashboard_json"].replace('\\"', '"')
    used = set(re.findall(r'\{"([a-z_.]+?)(?:_bucket)?"\}', text))
    # each has its chart
    assert used == metrics.keys()


def test_what_is_tried_on_a_running_stack_is_what_cloud_monitoring_is_given(applied):
    given = {
        policy.key: policy.values["conditions"][0]["condition_prometheus_query_language"]
        for policy in rules.of(applied, "google_monitoring_alert_policy")
    }
    filters = {
        policy.key: policy.values["conditions"][0]["condition_matched_log"]
        for policy in rules.of(applied, "google_monitoring_alert_policy")
    }
    for name, alert in alert_conditions.ours().items():
        if "log" in alert:
            [matched] = filters[name]
            wanted = (
                f'jsonPayload.message="{alert["log"]["message"]}" AND severity>={alert["log"]["severity"]}'
            )
            assert matched["filter"].endswith(wanted), name
            continue
        [condition] = given[name]
        assert condition["query"] == alert_conditions.query_of(alert), name
        assert condition["duration"] == f"{alert['for_seconds']}s", name


# what each environment has to consist of: type, and the keys that there must be (`*`: any)
ASKED_FOR = {
    "network": ("google_compute_network", "*"),
    "its subnetwork for direct egress": ("google_compute_subnetwork", "*"),
    "private services access": ("google_service_networking_connection", "*"),
    "fixed addresses to partners": ("google_compute_router_nat", "*"),
    "Cloud SQL": ("google_sql_database_instance", "*"),
    "logins without passwords": ("google_sql_user", "gateway", "dispatcher", "migrate"),
    "topics": ("google_pubsub_topic", "payment-events", "payment-operations-s4-main"),
    "push subscriptions": ("google_pubsub_subscription", "payment-events", "payment-operations-s4-main"),
    "the two grants of dead letters": ("google_pubsub_subscription_iam_binding", "payment-events"),
    "Cloud Tasks": ("google_cloud_tasks_queue", "*"),
    "Firestore": ("google_firestore_database", "*"),
    "its backups": ("google_firestore_backup_schedule", "*"),
    "secrets": ("google_secret_manager_secret", "token-signing-keys", "party-key-ring", "sap-connections"),
    "who reads them": ("google_secret_manager_secret_iam_binding", "token-signing-keys"),
    "Cloud KMS": ("google_kms_crypto_key", "party-data", "webhook-secrets"),
    "Artifact Registry": ("google_artifact_registry_repository", "*"),
    "services": ("google_cloud_run_v2_service", "*"),
    "the dispatcher's worker pool": ("google_cloud_run_v2_worker_pool", "dispatcher"),
    "jobs": ("google_cloud_run_v2_job", "migrate", "erase", "recover"),
    "when they run": ("google_cloud_scheduler_job", "erase"),
    "the bucket of public keys": ("google_storage_bucket", "public_keys"),
    "who reads it": ("google_storage_bucket_iam_binding", "public_keys_readers"),
    "API Gateway": ("google_api_gateway_gateway", "*"),
    "its configuration": ("google_api_gateway_api_config", "*"),
    "Memorystore": ("google_memorystore_instance", "counters"),
    "service accounts": ("google_service_account", "gateway", "sap_adapter", "push", "tasks", "deployer"),
    "budget": ("google_billing_budget", "*"),
    "dashboard": ("google_monitoring_dashboard", "*"),
    "alerts": ("google_monitoring_alert_policy", "outbox-age", "dead-letters", "availability", "latency"),
    "objectives": ("google_monitoring_slo", "availability", "latency"),
    "audit logs": ("google_project_iam_audit_config", "*"),
    "logs in the region": ("google_logging_project_bucket_config", "*"),
    "a way in": ("google_iap_web_cloud_run_service_iam_binding", "partners", "backoffice"),
    "uptime check": ("google_monitoring_uptime_check_config", "*"),
}
SERVICES = {"gateway", "sap-adapter", "webhooks", "dead-letters", "partners", "backoffice"}
WITH_A_DOMAIN = {"google_compute_security_policy", "google_compute_global_forwarding_rule"}


def test_everything_that_was_asked_for_is_planned(applied, environment):
    keys = {}
    for resource in applied:
        keys.setdefault(resource.type, set()).add(resource.key)
    for what, (kind, *needed) in ASKED_FOR.items():
        assert kind in keys, what
        assert needed == ["*"] or keys[kind] >= set(needed), (what, keys[kind])
    names = {service.values["name"] for service in rules.of(applied, "google_cloud_run_v2_service")}
    assert names >= {f"bridge-{service}" for service in SERVICES}
    # the load balancer with Cloud Armor is optional: it comes with the domain
    assert keys.keys() & WITH_A_DOMAIN == (WITH_A_DOMAIN if environment == "prod" else set())


def test_what_encrypts_outlives_a_region(applied):
    [ring] = rules.of(applied, "google_kms_key_ring")
    assert ring.values["location"] == "europe"
    for secret in rules.of(applied, "google_secret_manager_secret"):
        replicas = secret.values["replication"][0]["user_managed"][0]["replicas"]
        assert len({replica["location"] for replica in replicas}) == 2, secret.address
    [database] = rules.of(applied, "google_sql_database_instance")
    assert database.values["settings"][0]["backup_configuration"][0]["location"] == "eu"


def test_the_uptime_check_asks_where_something_answers(applied, environment):
    [check] = rules.of(applied, "google_monitoring_uptime_check_config")
    [gateway] = rules.of(applied, "google_api_gateway_gateway")
    answers = {"prod": "api.example.com", "staging": gateway.values["default_hostname"]}
    assert check.values["monitored_resource"][0]["labels"]["host"] == answers[environment]


def test_the_documented_count_of_resources_is_true(applied_environments):
    counted = {name: Counter(r.type for r in resources) for name, resources in applied_environments.items()}
    document = (REPOSITORY / "docs/terraform-resources.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|$", document, re.MULTILINE)
    documented = {kind: (int(staging), int(prod)) for kind, staging, prod in rows}
    kinds = sorted(counted["staging"].keys() | counted["prod"].keys())
    assert documented == {kind: (counted["staging"][kind], counted["prod"][kind]) for kind in kinds}


def test_every_log_that_a_runbook_reads_is_written(applied):
    runbooks = "".join(
        path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs/runbooks").glob("*.md")
    )
    read = set(re.findall(r'protoPayload\.serviceName="([a-z.]+)"', runbooks))
    assert read
    assert list(rules.unaudited(applied, read=read)) == []


def test_what_is_asked_to_audit_the_database_really_does(applied):
    for instance in rules.of(applied, "google_sql_database_instance"):
        flags = {flag["name"]: flag["value"] for flag in instance.values["settings"][0]["database_flags"]}
        if flags.get("cloudsql.enable_pgaudit") == "on":
            assert flags.get("pgaudit.log"), "it logs nothing"
    migration = (REPOSITORY / "bridge/storage/migrate.py").read_text(encoding="utf-8")
    assert 'AUDIT_EXTENSION = "pgaudit"' in migration


def test_no_yaml_alias_reaches_the_api_gateway(applied):
    """Its converter reads `*name` as a string."""
    [config] = rules.of(applied, "google_api_gateway_api_config")
    [document] = config.values["openapi_documents"][0]["document"]
    contents = base64.b64decode(document["contents"]).decode()
    aliases = [event.anchor for event in yaml.parse(contents) if isinstance(event, yaml.AliasEvent)]
    assert aliases == []
    # the name tells API Gateway how to read it
    assert document["path"].endswith(".json")
    json.loads(contents)


def test_a_deployment_leaves_nothing_that_terraform_would_undo_or_send_again():
    ignored = {
        path.name: re.search(r"ignore_changes = \[(.*?)\]\n", path.read_text(encoding="utf-8"), re.DOTALL)[1]
        for path in (
            REPOSITORY / "terraform/modules/service/main.tf",
            REPOSITORY / "terraform/dispatcher.tf",
            REPOSITORY / "terraform/jobs.tf",
        )
    }
    for name, attributes in ignored.items():
        # hashicorp/terraform-provider-google#14569: the old name with a new template is 409
        assert "revision" not in attributes, name
        assert "annotations" in attributes, name
        assert "labels" in attributes, name
        assert ".image" in attributes, name


def test_the_counters_are_at_the_primary(applied):
    [gateway] = [
        each
        for each in rules.of(applied, "google_cloud_run_v2_service")
        if each.values["name"] == "bridge-gateway"
    ]
    given = {
        variable["name"]: variable["value"]
        for resource, variable in rules.variables(applied)
        if resource is gateway
    }
    assert given["RATE_LIMIT_STORAGE_URL"].endswith(":6379/0")
    assert READER_ADDRESS not in given["RATE_LIMIT_STORAGE_URL"]


def test_the_callers_address_is_found_where_terraform_says_that_it_is(applied, environment):
    """The entries that Google's proxies append, as documented: tests/unit/test_caller_address.py."""
    caller, balancer, front_end = "198.51.100.7", "203.0.113.200", "2600:1900:2000:91::1"
    [gateway] = [
        each
        for each in rules.of(applied, "google_cloud_run_v2_service")
        if each.values["name"] == "bridge-gateway"
    ]
    given = {
        variable["name"]: variable["value"]
        for resource, variable in rules.variables(applied)
        if resource is gateway
    }
    hops = int(given["FORWARDED_HOPS"])
    if environment == "staging":
        assert "EDGE_KEY" not in given
        chain = f"203.0.113.9,{caller},{front_end}"
        assert CallerAddress(hops).of({"X-Forwarded-For": chain}, "169.254.1.1") == caller
        return
    assert "EDGE_KEY" in given
    [backend] = rules.of(applied, "google_compute_backend_service")
    set_by_the_balancer = dict(header.split(":", 1) for header in backend.values["custom_request_headers"])
    headers = {
        name: value.replace("{client_ip_address}", caller) for name, value in set_by_the_balancer.items()
    }
    headers["X-Forwarded-For"] = f"{caller},{balancer},{front_end}"
    edge = CallerAddress(hops, headers["X-Edge-Key"].encode())
    assert edge.of(headers, "169.254.1.1") == caller
    with pytest.raises(RejectedError):
        edge.of({"X-Forwarded-For": f"203.0.113.9,{caller},{front_end}"}, "169.254.1.1")


def test_what_is_critical_wakes_somebody_where_there_is_a_pager(initialized, applied):
    for policy in rules.of(applied, "google_monitoring_alert_policy"):
        assert len(policy.values["notification_channels"]) == 1, policy.address
    pager = "projects/p/notificationChannels/4711"
    said = initialized.plan("prod", pager_channels=f'["{pager}"]')
    policies = re.findall(
        r"# google_monitoring_alert_policy\.(.*?)will be created(.*?)\n    \}\n", said, re.DOTALL
    )
    woken = {pager in body for _, body in policies if '"CRITICAL"' in body}
    assert woken == {True}
    assert not any(pager in body for _, body in policies if '"CRITICAL"' not in body)


def test_a_dispatcher_that_hangs_is_restarted(applied):
    [pool] = rules.of(applied, "google_cloud_run_v2_worker_pool")
    [container] = pool.values["template"][0]["containers"]
    port = {variable["name"]: variable["value"] for variable in container["env"]}["LIVENESS_PORT"]
    for probe in (container["liveness_probe"], container["startup_probe"]):
        assert probe[0]["http_get"][0]["path"] == liveness.PATH
        assert str(probe[0]["http_get"][0]["port"]) == port


def test_backups_outlive_the_instance(applied):
    for instance in rules.of(applied, "google_sql_database_instance"):
        settings = instance.values["settings"][0]
        assert settings["retain_backups_on_delete"] is True
        assert settings["final_backup_config"][0]["enabled"] is True


def test_logs_stay_in_the_region(applied):
    [bucket] = rules.of(applied, "google_logging_project_bucket_config")
    [sink] = rules.of(applied, "google_logging_project_sink")
    assert bucket.values["location"] == "europe-west3"
    assert sink.values["name"] == "_Default"
    assert sink.values["destination"].endswith(bucket.values["id"])


def test_an_existing_network_is_used_and_nothing_of_it_is_made(initialized):
    network = (
        '{existing={network="projects/hub/global/networks/n",private_services_name="psa",'
        'services_subnetwork="projects/hub/regions/r/subnetworks/s",'
        'webhooks_subnetwork="projects/hub/regions/r/subnetworks/w"}}'
    )
    dns = '{"sap.example.com."=["10.1.2.3"]}'
    said = initialized.plan("prod", network=network, private_dns=dns)
    made = set(re.findall(r"# (google_compute_\w+|google_service_networking_\w+|google_dns_\w+)\.", said))
    assert not made & {"google_compute_network", "google_compute_subnetwork", "google_compute_router_nat"}
    assert "google_dns_managed_zone" in made


def test_a_replica_in_another_region_is_a_variable(initialized):
    database = (
        '{availability_type="REGIONAL",backups=30,disk_size_gb=200,max_connections=800,'
        'tier="db-custom-8-32768",transaction_log_days=7,replica_region="europe-west4"}'
    )
    said = initialized.plan("prod", database=database)
    assert "google_sql_database_instance.replica[0] will be created" in said
    assert "is another region" in " ".join(
        initialized.plan("prod", fails=True, database=database.replace("west4", "west3"))
        .replace("│", " ")
        .split()
    )


def test_the_other_region_can_be_planned_from_productions_settings(initialized):
    """docs/runbooks/region-loss.md: another project, prod's recovery_region as its region."""
    variables = (REPOSITORY / "terraform/variables.tf").read_text(encoding="utf-8")
    [recovery] = re.findall(r'variable "recovery_region" \{.*?default += "([\w-]+)"', variables, re.DOTALL)
    said = initialized.plan(
        "prod",
        project_id="example-bridge-recovery",
        region=recovery,
        recovery_region="europe-west1",
        monthly_budget="null",
    )
    assert re.search(r"Plan: \d+ to add, 0 to change, 0 to destroy", said)
    assert f'region = "{recovery}"' in " ".join(said.split())
    assert "google_billing_budget" not in said
