"""fmt, validate, plan, and the rules that no provider checks, for staging and production."""

import json
import re
from collections import Counter

import alert_conditions
import pytest
import terraform_rules as rules
import yaml
from terraform_stage import IMAGES, REPOSITORY

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
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no(rule, applied):
    assert list(rule(applied)) == []


def test_every_push_subscription_is_complete(applied):
    broken = rules.incomplete_subscriptions(applied, longest_handler_seconds=longest_handler_seconds())
    assert list(broken) == []
    assert len(rules.of(applied, "google_pubsub_subscription")) >= 4


def test_only_the_api_gateway_and_who_smokes_a_deployment_call_the_gateway_service(applied):
    callers = [
        resource.values["members"]
        for resource in rules.of(applied, "google_cloud_run_v2_service_iam_binding")
        if resource.values["role"] == "roles/run.invoker"
    ]
    assert [sorted(member.split("@")[0] for member in members) for members in callers] == [
        ["serviceAccount:bridge-api-gateway", "serviceAccount:bridge-deployer"]
    ]


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
    lines = set(re.findall(r"logging_googleapis_com:user_(\w+)", text))
    assert lines == {metric.values["name"] for metric in rules.of(applied, "google_logging_metric")}


def test_what_is_tried_on_a_running_stack_is_what_cloud_monitoring_is_given(applied):
    given = {
        policy.key: policy.values["conditions"][0]["condition_prometheus_query_language"]
        for policy in rules.of(applied, "google_monitoring_alert_policy")
    }
    for name, alert in alert_conditions.ours().items():
        [condition] = given[name]
        assert condition["query"] == alert_conditions.query_of(alert), name
        assert condition["duration"] == f"{alert['for_seconds']}s", name


def test_the_documented_count_of_resources_is_true(applied_environments):
    counted = {name: Counter(r.type for r in resources) for name, resources in applied_environments.items()}
    document = (REPOSITORY / "docs/terraform-resources.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|$", document, re.MULTILINE)
    documented = {kind: (int(staging), int(prod)) for kind, staging, prod in rows}
    kinds = sorted(counted["staging"].keys() | counted["prod"].keys())
    assert documented == {kind: (counted["staging"][kind], counted["prod"][kind]) for kind in kinds}
