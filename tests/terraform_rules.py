"""What must hold of an environment and no provider checks. Each rule returns what breaks it, in words."""

import re

EVERYBODY = {"allUsers", "allAuthenticatedUsers"}
# docs/api.md, Tokens: the keys and metadata of the public bucket, and nothing else
PUBLIC = {"google_storage_bucket_iam_binding.public_keys_readers"}
TOO_MUCH = {"roles/owner", "roles/editor", "roles/viewer"}
PUBLIC_INGRESS = {
    "bridge-gateway": "INGRESS_TRAFFIC_ALL",
    # behind Identity-Aware Proxy
    "bridge-partners": "INGRESS_TRAFFIC_ALL",
    "bridge-backoffice": "INGRESS_TRAFFIC_ALL",
}
BEHIND_IAP = {"bridge-partners", "bridge-backoffice"}
# Google, on Direct VPC egress: "connection establishment delays of a minute or more on instance startup"
MIN_STARTUP_SECONDS = 180
LOG_METRIC = re.compile(r"logging_googleapis_com:\w+(\{[^}]*\})?")
INTERNAL = "INGRESS_TRAFFIC_INTERNAL_ONLY"
PROTECTION = {
    "google_sql_database_instance": "deletion_protection",
    "google_cloud_run_v2_service": "deletion_protection",
    "google_cloud_run_v2_worker_pool": "deletion_protection",
    "google_cloud_run_v2_job": "deletion_protection",
    "google_secret_manager_secret": "deletion_protection",
    "google_memorystore_instance": "deletion_protection_enabled",
}
MAX_PUBSUB_SECONDS = 600
DEAD_LETTERS = "-dead-letters-push"
AGENTS_GRANTS = (
    "google_pubsub_topic_iam_binding.dead_letters",
    "google_pubsub_subscription_iam_binding.carrier",
)
SECRET_WORDS = ("PASSWORD", "SECRET", "_KEY", "KEY_RING", "KEYS_DIR", "TOKEN_SIGNING")


def of(resources, *types):
    return [resource for resource in resources if resource.type in types]


def public_grants(resources):
    for resource in resources:
        members = {resource.values.get("member"), *(resource.values.get("members") or [])}
        if members & EVERYBODY and resource.address not in PUBLIC:
            yield f"{resource.address} gives {resource.values['role']} to everybody"


def broad_grants(resources):
    for resource in resources:
        if resource.values.get("role") in TOO_MUCH:
            yield f"{resource.address} gives {resource.values['role']}"
        # an audit config is each service's own
        is_for_the_project = (
            resource.type.startswith("google_project_iam_")
            and resource.type != "google_project_iam_audit_config"
        )
        if is_for_the_project and not resource.type.endswith("_member"):
            yield f"{resource.address} would take the project's grant from everybody else"


def incomplete_subscriptions(resources, *, longest_handler_seconds):
    agent = {
        each.values["member"]
        for each in of(resources, "google_project_service_identity")
        if each.values["service"] == "pubsub.googleapis.com"
    }
    grants = {
        (resource.address.partition(".")[0], resource.key)
        for resource in resources
        if resource.address.startswith(AGENTS_GRANTS) and set(resource.values["members"]) == agent
    }
    for subscription in of(resources, "google_pubsub_subscription"):
        name, values = subscription.values["name"], subscription.values
        push = (values["push_config"] or [{}])[0]
        token = (push.get("oidc_token") or [{}])[0]
        if not token.get("service_account_email") or not token.get("audience"):
            yield f"{name} pushes without an identity token (OIDC) for an audience"
        if not push.get("push_endpoint", "").startswith("https://"):
            yield f"{name} pushes to no https address"
        if [each["ttl"] for each in values["expiration_policy"]] != [""]:
            yield f'{name} expires when nothing comes for 31 days: expiration_policy {{ ttl = "" }}'
        if not longest_handler_seconds < (values["ack_deadline_seconds"] or 0) <= MAX_PUBSUB_SECONDS:
            bounds = f"{longest_handler_seconds} and {MAX_PUBSUB_SECONDS} s"
            yield f"{name}: the ack deadline is not between {bounds}"
        yield from _retry_faults(name, values["retry_policy"])
        if not name.endswith(DEAD_LETTERS):
            yield from _dead_letter_faults(name, subscription.key, values["dead_letter_policy"], grants)


def _retry_faults(name, policies):
    if not policies:
        yield f"{name} has no retry policy: it would push again at once, for ever"
    for policy in policies:
        for bound in ("minimum_backoff", "maximum_backoff"):
            if not 0 <= float((policy[bound] or "-1").removesuffix("s")) <= MAX_PUBSUB_SECONDS:
                yield f"{name}: {bound} is not 0 to {MAX_PUBSUB_SECONDS} s"


def _dead_letter_faults(name, key, policies, grants):
    if not policies:
        yield f"{name} has no dead letter policy: poison would be pushed for ever"
    for policy in policies:
        if not 5 <= (policy["max_delivery_attempts"] or 0) <= 100:
            yield f"{name}: max_delivery_attempts is not 5 to 100"
    if ("google_pubsub_topic_iam_binding", key) not in grants:
        yield f"{name}: Pub/Sub may not publish to its dead-letter topic"
    if ("google_pubsub_subscription_iam_binding", key) not in grants:
        yield f"{name}: Pub/Sub may not acknowledge what it moves to the dead letters"


def topics_without_subscription(resources):
    subscribed = {each.values["topic"] for each in of(resources, "google_pubsub_subscription")}
    for topic in of(resources, "google_pubsub_topic"):
        if topic.values["id"] not in subscribed:
            yield f"{topic.values['name']} has no subscription: what is published to it is gone"


def open_services(resources):
    callers = {
        each.values["name"]: each.values["members"]
        for each in of(resources, "google_cloud_run_v2_service_iam_binding")
        if each.values["role"] == "roles/run.invoker"
    }
    for service in of(resources, "google_cloud_run_v2_service"):
        name, ingress = service.values["name"], service.values["ingress"]
        if ingress != PUBLIC_INGRESS.get(name, INTERNAL):
            yield f"{name} has ingress {ingress}, and should have {PUBLIC_INGRESS.get(name, INTERNAL)}"
        if service.values["invoker_iam_disabled"] and ingress != INTERNAL:
            yield f"{name} takes calls from outside without Cloud Run's check of who calls"
        if not service.values["invoker_iam_disabled"] and not callers.get(name):
            yield f"{name} has no caller"
        if bool(service.values["iap_enabled"]) != (name in BEHIND_IAP):
            yield f"{name}: Identity-Aware Proxy is {'missing' if name in BEHIND_IAP else 'not expected'}"


def impatient_probes(resources):
    for service in of(resources, "google_cloud_run_v2_service"):
        [probe] = service.values["template"][0]["containers"][0]["startup_probe"]
        seconds = probe["period_seconds"] * probe["failure_threshold"]
        if service.values["template"][0]["vpc_access"] and seconds < MIN_STARTUP_SECONDS:
            yield f"{service.values['name']} has {seconds} s to start; its network may take a minute or more"


def silent_log_alerts(resources):
    """Without monitored_resource, PromQL on a log-based metric is accepted and never fires.

    https://cloud.google.com/monitoring/promql/promql-mapping
    """
    for policy in of(resources, "google_monitoring_alert_policy"):
        for condition in policy.values["conditions"]:
            for promql in condition["condition_prometheus_query_language"]:
                for found in LOG_METRIC.finditer(promql["query"]):
                    if "monitored_resource=" not in (found[1] or ""):
                        yield f"{policy.key}: {found[0]} names no monitored_resource"
            for matched in condition["condition_matched_log"]:
                if "resource.type=" not in matched["filter"]:
                    yield f"{policy.key}: its filter names no resource.type"


def crowded_nats(resources):
    for nat in of(resources, "google_compute_router_nat"):
        if (nat.values["min_ports_per_vm"] or 64) < 1024:
            yield f"{nat.values['name']}: {nat.values['min_ports_per_vm']} ports for each instance"
    used = [
        (nat.key, address)
        for nat in of(resources, "google_compute_router_nat")
        for address in nat.values["nat_ips"]
    ]
    if len({address for _, address in used}) != len(used):
        yield "SAP and webhooks leave by the same address"


def unaudited(resources, *, read):
    """`read`: services whose logs a runbook reads."""
    configured = {each.values["service"] for each in of(resources, "google_project_iam_audit_config")}
    for service in read:
        # Firestore's data access is audited under the name of Datastore
        name = service.replace("firestore.", "datastore.")
        if name not in configured:
            yield f"a runbook reads the audit logs of {service}, which are off by default"


def shared_accounts(resources):
    seen = {}
    for resource in of(
        resources, "google_cloud_run_v2_service", "google_cloud_run_v2_worker_pool", "google_cloud_run_v2_job"
    ):
        template = resource.values["template"][0]
        account = (template.get("template") or [template])[0].get("service_account")
        if not account:
            yield f"{resource.address} runs as the project's default account"
        elif account in seen:
            yield f"{resource.address} shares the account of {seen[account]}"
        seen[account] = resource.address


def open_networks(resources):
    for network in of(resources, "google_compute_network"):
        if network.values["auto_create_subnetworks"] is not False or network.values["name"] == "default":
            yield f"{network.address} is a default network: it has a subnetwork in every region"
    ours = {each.values["id"] for each in of(resources, "google_compute_subnetwork")}
    for resource in resources:
        if not resource.type.startswith("google_cloud_run_v2_") or "_iam_" in resource.type:
            continue
        template = resource.values["template"][0]
        access = (template.get("template") or [template])[0]["vpc_access"]
        used = {each["subnetwork"] for one in access for each in one["network_interfaces"]}
        if not used or not used <= ours:
            yield f"{resource.address} is not in our network"
    for firewall in of(resources, "google_compute_firewall"):
        if firewall.values["direction"] != "EGRESS":
            yield f"{firewall.address} lets something in"


def unprotected(resources):
    for resource in resources:
        field = PROTECTION.get(resource.type)
        if field and resource.values[field] is not True:
            yield f"{resource.address} may be deleted: {field}"
    for instance in of(resources, "google_sql_database_instance"):
        settings = instance.values["settings"][0]
        if settings["deletion_protection_enabled"] is not True:
            yield f"{instance.address} may be deleted from the console: deletion_protection_enabled"
        if settings["ip_configuration"][0]["ipv4_enabled"] is not False:
            yield f"{instance.address} has a public address"
        if not settings["backup_configuration"][0]["point_in_time_recovery_enabled"]:
            yield f"{instance.address} cannot be restored to a point in time"
    for database in of(resources, "google_firestore_database"):
        if database.values["delete_protection_state"] != "DELETE_PROTECTION_ENABLED":
            yield f"{database.address} may be deleted"


def secrets_in_clear(resources):
    for resource in of(resources, "google_secret_manager_secret_version"):
        yield f"{resource.address} puts a secret's value into the state"
    for resource, variable in variables(resources):
        is_secret = any(word in variable["name"] for word in SECRET_WORDS)
        if is_secret and variable["value"] and not variable["value"].startswith("/secrets/"):
            yield f"{resource.address} gives {variable['name']} in clear"


def variables(resources):
    """Each variable of each container: (resource, {name, value, value_source})."""
    for resource in of(
        resources, "google_cloud_run_v2_service", "google_cloud_run_v2_worker_pool", "google_cloud_run_v2_job"
    ):
        template = resource.values["template"][0]
        for container in (template.get("template") or [template])[0]["containers"]:
            for variable in container["env"]:
                yield resource, variable


def impossible_queues(resources):
    for queue in of(resources, "google_cloud_tasks_queue"):
        limits = queue.values["rate_limits"][0]
        if not 0 < limits["max_dispatches_per_second"] <= 500:
            yield f"{queue.address}: a queue takes 500 dispatches per second at most"
        if not 0 < limits["max_concurrent_dispatches"] <= 5000:
            yield f"{queue.address}: a queue takes 5000 dispatches at once at most"


def images_by_tag(resources):
    for resource in of(
        resources, "google_cloud_run_v2_service", "google_cloud_run_v2_worker_pool", "google_cloud_run_v2_job"
    ):
        template = resource.values["template"][0]
        for container in (template.get("template") or [template])[0]["containers"]:
            if "@sha256:" not in container["image"]:
                yield f"{resource.address} runs {container['image']}, which can be moved"
