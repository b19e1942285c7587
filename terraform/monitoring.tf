# What is watched stands in alerts.yaml, and what our metrics are called in bridge/metrics.json: the telemetry of the
# services and these policies have no other place to agree in.

resource "google_monitoring_notification_channel" "email" {
  display_name = "Partner Payments Bridge, on call"
  type         = "email"
  labels       = { email_address = var.alert_email }

  depends_on = [google_project_service.this["monitoring.googleapis.com"]]
}

resource "google_monitoring_alert_policy" "this" {
  for_each = local.alerts

  display_name          = "${var.environment}: ${each.key}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = each.value.severity == "CRITICAL" ? local.critical_channels : local.channels

  conditions {
    display_name = each.value.says

    # one line is one alert: a metric of lines, sparse as it is, would miss the first
    dynamic "condition_matched_log" {
      for_each = each.value.log[*]
      content {
        filter = "resource.type=(${local.logging_resources}) AND jsonPayload.message=\"${each.value.log.message}\" AND severity>=${each.value.log.severity}"
      }
    }
    dynamic "condition_prometheus_query_language" {
      for_each = each.value.log == null ? [local.alert_queries[each.key]] : []
      content {
        query    = condition_prometheus_query_language.value
        duration = "${each.value.for_seconds}s"
        # ours exist only once a service has told them
        disable_metric_validation = true
        evaluation_interval       = "30s"
      }
    }
  }
  documentation {
    subject   = each.value.says
    mime_type = "text/markdown"
    content   = "${each.value.says}\n\nWhat to do: [docs/runbooks/${each.value.runbook}.md](${var.repository_url}/docs/runbooks/${each.value.runbook}.md)"
    links {
      display_name = "Runbook"
      url          = "${var.repository_url}/docs/runbooks/${each.value.runbook}.md"
    }
  }
  alert_strategy {
    auto_close = "86400s"

    dynamic "notification_rate_limit" {
      for_each = each.value.log[*]
      content {
        period = "300s"
      }
    }
  }

  depends_on = [google_project_service.this["monitoring.googleapis.com"]]
}

# --- objectives -------------------------------------------------------------------------------------------------------

resource "google_monitoring_custom_service" "api" {
  service_id   = "${local.prefix}-api"
  display_name = "Partner Payments Bridge, API"

  depends_on = [google_project_service.this["monitoring.googleapis.com"]]
}

resource "google_monitoring_slo" "availability" {
  service             = google_monitoring_custom_service.api.service_id
  slo_id              = "availability"
  display_name        = "999 of 1000 requests do not fail by our fault"
  goal                = 0.999
  rolling_period_days = 28

  request_based_sli {
    good_total_ratio {
      total_service_filter = local.gateway_requests
      bad_service_filter   = "${local.gateway_requests} AND metric.labels.response_code_class=\"5xx\""
    }
  }
}

resource "google_monitoring_slo" "latency" {
  service             = google_monitoring_custom_service.api.service_id
  slo_id              = "latency"
  display_name        = "99 of 100 requests take less than half a second"
  goal                = 0.99
  rolling_period_days = 28

  request_based_sli {
    distribution_cut {
      distribution_filter = "metric.type=\"run.googleapis.com/request_latencies\" AND ${local.gateway_revisions}"
      range {
        max = 500
      }
    }
  }
}

# At 14.4 times the bearable rate a month's allowance is gone in two days: over an hour, and still in these five minutes.
resource "google_monitoring_alert_policy" "burn_rate" {
  for_each = {
    availability = google_monitoring_slo.availability.name
    latency      = google_monitoring_slo.latency.name
  }

  display_name          = "${var.environment}: burn rate of ${each.key}"
  combiner              = "AND"
  severity              = "CRITICAL"
  notification_channels = local.critical_channels

  dynamic "conditions" {
    for_each = toset(["3600s", "300s"])
    content {
      display_name = "over ${conditions.value}"
      condition_threshold {
        filter          = "select_slo_burn_rate(\"${each.value}\", \"${conditions.value}\")"
        comparison      = "COMPARISON_GT"
        threshold_value = 14.4
        duration        = "0s"
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "The API's ${each.key} burns its allowance of 28 days.\n\nWhat to do: [docs/runbooks/gateway-errors.md](${var.repository_url}/docs/runbooks/gateway-errors.md)"
    links {
      display_name = "Runbook"
      url          = "${var.repository_url}/docs/runbooks/gateway-errors.md"
    }
  }
}

resource "google_monitoring_uptime_check_config" "api" {
  display_name = "${var.environment}: the API's public keys"
  timeout      = "10s"
  period       = "60s"

  http_check {
    path         = "/.well-known/jwks.json"
    port         = 443
    use_ssl      = true
    validate_ssl = true

    accepted_response_status_codes {
      status_class = "STATUS_CLASS_2XX"
    }
  }
  monitored_resource {
    type = "uptime_url"
    labels = {
      project_id = var.project_id
      # without a domain of ours nothing answers at the issuer's
      host = coalesce(var.public_domain, google_api_gateway_gateway.this.default_hostname)
    }
  }
}

# --- one screen -------------------------------------------------------------------------------------------------------

resource "google_monitoring_dashboard" "this" {
  dashboard_json = jsonencode({
    displayName = "Partner Payments Bridge, ${var.environment}"
    mosaicLayout = {
      columns = 48
      tiles = [
        for index, name in keys(local.charts) : {
          xPos   = 16 * (index % 3)
          yPos   = 12 * floor(index / 3)
          width  = 16
          height = 12
          widget = {
            title = name
            xyChart = {
              dataSets = [{
                plotType        = "LINE"
                timeSeriesQuery = { prometheusQuery = local.charts[name] }
              }]
            }
          }
        }
      ]
    }
  })

  depends_on = [google_project_service.this["monitoring.googleapis.com"]]
}

locals {
  channels          = [google_monitoring_notification_channel.email.id]
  critical_channels = concat(local.channels, var.pager_channels)
  alerts            = { for name, alert in yamldecode(file("${path.module}/alerts.yaml")) : name => merge({ log = null }, alert) }
  alerts_of_metrics = { for name, alert in local.alerts : name => alert if alert.log == null }
  logging_resources = join(" OR ", [for kind in ["cloud_run_job", "cloud_run_revision", "cloud_run_worker_pool"] : "\"${kind}\""])
  # name: instrument, unit, attributes
  our_metrics = jsondecode(file("${path.module}/../bridge/metrics.json"))

  # How Cloud Monitoring's PromQL names a metric. Ours come by OTLP and keep their own names, in quotes for their dots
  # (cloud.google.com/stackdriver/docs/otlp-metrics/overview); Google's are domain, colon, path, with underscores.
  series = {
    for name, alert in local.alerts_of_metrics : name => (
      contains(keys(local.our_metrics), alert.metric) ? "{\"${alert.metric}\"}"
      : "${replace(split("/", alert.metric)[0], ".", "_")}:${join("_", slice(split("/", alert.metric), 1, length(split("/", alert.metric))))}{${try(alert.where, "")}}"
    )
  }
  alert_values = {
    for name, alert in local.alerts_of_metrics : name => (
      can(alert.query) ? replace(alert.query, "MAX_CONNECTIONS", tostring(var.database.max_connections))
      : alert.judge == "increase" ? "sum(increase(${local.series[name]}[5m]))"
      : "max(${local.series[name]})"
    )
  }
  alert_queries = { for name, alert in local.alerts_of_metrics : name => (
    can(alert.above) ? "${local.alert_values[name]} > ${alert.above}" : local.alert_values[name]
  ) }

  # attributes are labels, in quotes too
  metric_labels = { for name, metric in local.our_metrics : name => [for label in metric.attributes : "\"${label}\""] }
  charts = merge(
    {
      for name, metric in local.our_metrics : name => (
        metric.instrument == "histogram" ? "histogram_quantile(0.99, sum by (${join(", ", concat(["le"], local.metric_labels[name]))}) (rate({\"${name}_bucket\"}[5m])))"
        : metric.instrument == "counter" ? "sum by (${join(", ", local.metric_labels[name])}) (rate({\"${name}\"}[5m]))"
        : "max by (${join(", ", local.metric_labels[name])}) ({\"${name}\"})"
      )
    },
    {
      for name in ["database-connections", "database-disk", "database-processor", "gateway-errors", "gateway-slow", "pushes-not-taken", "tasks-waiting"] :
      name => local.alert_values[name]
    },
  )

  gateway_revisions = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${local.names["gateway"]}\""
  gateway_requests  = "metric.type=\"run.googleapis.com/request_count\" AND ${local.gateway_revisions}"
}
