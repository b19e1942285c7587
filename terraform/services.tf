# The HTTP services. A new one: an entry here, its secrets in secrets.tf, its role in 0001_grants.sql. README.md.

locals {
  services = {
    # `connections`: what one instance opens at most, as its __main__.py says
    gateway = {
      module          = "gateway"
      ingress         = "INGRESS_TRAFFIC_ALL"
      threads         = 16
      connections     = 16 + 2
      timeout_seconds = 60
      cpu             = "1"
      memory          = "512Mi"
      cpu_idle        = false
      egress          = "PRIVATE_RANGES_ONLY"
      network_tags    = []
    }
    sap_adapter = {
      module          = "sap_adapter"
      ingress         = "INGRESS_TRAFFIC_INTERNAL_ONLY"
      threads         = 16
      connections     = 16 + 2
      timeout_seconds = local.ack_deadline_seconds
      cpu             = "1"
      memory          = "512Mi"
      cpu_idle        = true
      # SAP is in our network or beyond its VPN; the mock is found by its run.app address
      egress       = "ALL_TRAFFIC"
      network_tags = []
    }
    webhooks = {
      module          = "webhooks"
      ingress         = "INGRESS_TRAFFIC_INTERNAL_ONLY"
      threads         = 32
      connections     = 32 + 2
      timeout_seconds = 60
      cpu             = "1"
      memory          = "512Mi"
      # the sweeper looks for what was left behind between requests
      cpu_idle     = false
      egress       = "ALL_TRAFFIC"
      network_tags = [local.webhooks_network_tag]
    }
    dead_letters = {
      module          = "dispatcher.dead_letters"
      ingress         = "INGRESS_TRAFFIC_INTERNAL_ONLY"
      threads         = 4
      connections     = 4
      timeout_seconds = local.ack_deadline_seconds
      cpu             = "1"
      memory          = "512Mi"
      cpu_idle        = true
      egress          = "ALL_TRAFFIC"
      network_tags    = []
    }
    # partners and backoffice: operators come from outside, through Identity-Aware Proxy (operators.tf)
    partners = {
      module          = "partners"
      ingress         = "INGRESS_TRAFFIC_ALL"
      threads         = 4
      connections     = 4
      timeout_seconds = 60
      cpu             = "1"
      memory          = "512Mi"
      cpu_idle        = true
      egress          = "ALL_TRAFFIC"
      network_tags    = []
    }
    backoffice = {
      module          = "backoffice"
      ingress         = "INGRESS_TRAFFIC_ALL"
      threads         = 4
      connections     = 4 + 2
      timeout_seconds = 60
      cpu             = "1"
      memory          = "512Mi"
      # it tells how everything stands, asked or not
      cpu_idle     = false
      egress       = "ALL_TRAFFIC"
      network_tags = []
    }
  }

  # who calls past Cloud Run's check of identity tokens; the others check their callers themselves
  callers = {
    gateway    = [google_service_account.api_gateway.member, google_service_account.deployer.member]
    partners   = [google_project_service_identity.iap.member]
    backoffice = [google_project_service_identity.iap.member]
  }

  # --- what they are told: every variable that they read, and no other (tests/terraform) ---

  environments = {
    gateway = merge(local.firestore_environment, local.telemetry_environment, local.directory_environment, {
      # ESPv2 is called by Google's front end, which is the last entry of X-Forwarded-For; the client is the one before
      FORWARDED_HOPS            = "2"
      RATE_LIMIT_STORAGE_URL    = local.valkey_url
      REFUND_WINDOW_DAYS        = tostring(var.refund_window_days)
      TOKENS_PER_MINUTE         = "120"
      TOKEN_AUDIENCE            = var.token_issuer
      TOKEN_ISSUER              = var.token_issuer
      TOKEN_REQUESTS_PER_MINUTE = "600"
    })
    sap_adapter = merge(local.firestore_environment, local.telemetry_environment, local.directory_environment, local.push_environment, local.settling_environment, {
      SAP_CONNECT_TIMEOUT_SECONDS    = tostring(var.sap_timing.connect_timeout_seconds)
      SAP_FAILING_OPERATIONS_TO_OPEN = "3"
      SAP_FIRST_QUESTION_SECONDS     = "1"
      SAP_LEASE_MARGIN_SECONDS       = tostring(var.sap_timing.lease_margin_seconds)
      SAP_MAX_PROBE_INTERVAL_SECONDS = "1.5"
      SAP_PROBE_INTERVAL_SECONDS     = "1"
      SAP_READ_TIMEOUT_SECONDS       = tostring(var.sap_timing.read_timeout_seconds)
    })
    webhooks = merge(local.firestore_environment, local.telemetry_environment, local.directory_environment, local.push_environment, {
      PUSH_CALLERS                  = join(",", [google_service_account.push.email, google_service_account.tasks.email])
      SWEEP_GRACE_SECONDS           = "20"
      SWEEP_SECONDS                 = "10"
      TASK_LOCATION                 = var.region
      TASK_SERVICE_ACCOUNT          = google_service_account.tasks.email
      TASK_TARGET_URL               = "${local.urls["webhooks"]}/tasks/deliveries"
      WEBHOOK_DISABLE_AFTER_SECONDS = "432000"
      WEBHOOK_SCHEDULE_SECONDS      = "5,300,1800,7200,18000,36000,50400,72000,86400"
      WEBHOOK_TIMEOUT_SECONDS       = "15"
    })
    dead_letters = local.push_environment
    backoffice   = merge(local.operator_environments["backoffice"], local.settling_environment, local.metrics_environment)
    partners     = merge(local.firestore_environment, local.operator_environments["partners"])
  }

  # --- what several services are told ---

  project_environment = { GOOGLE_CLOUD_PROJECT = var.project_id }
  firestore_environment = merge(local.project_environment, {
    FIRESTORE_DATABASE = google_firestore_database.partners.name
  })
  directory_environment = { PARTNER_MAX_STALE_SECONDS = "604800" }
  push_environment = {
    PUSH_AUDIENCE = local.push_audience
    PUSH_CALLERS  = google_service_account.push.email
  }
  # one of ten payments is traced, as the gateway decides
  telemetry_environment = merge(local.metrics_environment, {
    OTEL_TRACES_EXPORTER    = "gcp_trace"
    OTEL_TRACES_SAMPLER_ARG = "0.1"
  })
  # what Google's endpoint asks of a process: where it runs, and whose it is
  metrics_environment = {
    OTEL_EXPORTER_OTLP_METRICS_ENDPOINT = "https://telemetry.googleapis.com/v1/metrics"
    OTEL_METRICS_EXPORTER               = "otlp"
    OTEL_RESOURCE_ATTRIBUTES            = "cloud.platform=gcp_cloud_run,cloud.region=${var.region},gcp.project_id=${var.project_id}"
  }
  # when the adapter believes SAP's "none" is when the dispatcher has it asked: one value for both
  settling_environment = {
    SAP_READ_LAG_SECONDS = tostring(var.sap_timing.read_lag_seconds)
    SAP_SETTLING_SECONDS = tostring(var.sap_timing.settling_seconds)
  }
}

module "service" {
  source   = "./modules/service"
  for_each = local.services

  callers             = lookup(local.callers, each.key, [])
  cpu                 = each.value.cpu
  cpu_idle            = each.value.cpu_idle
  deletion_protection = var.deletion_protection
  iap_enabled         = contains(local.operators_services, each.key)
  environment = merge(local.environments[each.key], local.database_environment[each.key], {
    THREADS = tostring(each.value.threads)
  })
  image           = var.services_image
  ingress         = each.value.ingress
  location        = var.region
  memory          = each.value.memory
  module          = each.value.module
  name            = local.names[each.key]
  network         = { network = local.network_id, subnetwork = local.subnetwork_ids[each.key == "webhooks" ? "webhooks" : "services"], egress = each.value.egress, tags = each.value.network_tags }
  scaling         = var.scaling[each.key]
  secret_files    = local.secret_files[each.key]
  service_account = google_service_account.process[each.key].email
  threads         = each.value.threads
  timeout_seconds = each.value.timeout_seconds

  # a revision that may not read its secrets or log in never becomes ready
  depends_on = [
    google_kms_crypto_key_iam_binding.unwrap,
    google_project_iam_member.process,
    google_project_service.this,
    google_secret_manager_secret_iam_binding.readers,
    google_sql_user.process,
  ]
}
