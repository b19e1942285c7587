# Optional: a domain of our own with Cloud Armor in front of the API Gateway. The API Gateway's own address cannot be
# closed. The load balancer therefore proves itself to the gateway with a key and names the client; a request that
# lacks the key gets no token.

resource "google_compute_region_network_endpoint_group" "api_gateway" {
  provider = google-beta
  for_each = local.public_domains

  name                  = "${local.prefix}-api-gateway"
  region                = var.api_gateway_region
  network_endpoint_type = "SERVERLESS"

  serverless_deployment {
    platform = "apigateway.googleapis.com"
    resource = google_api_gateway_gateway.this.gateway_id
  }
}

resource "google_compute_security_policy" "edge" {
  for_each = local.public_domains

  name = "${local.prefix}-edge"

  # known attacks on widespread libraries
  rule {
    action   = "deny(403)"
    priority = 1000
    match {
      expr {
        expression = "evaluatePreconfiguredExpr('cve-canary')"
      }
    }
  }
  # who floods is held off for ten minutes; partners' own limits are the gateway's work
  rule {
    action   = "rate_based_ban"
    priority = 2000
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
    rate_limit_options {
      conform_action   = "allow"
      exceed_action    = "deny(429)"
      enforce_on_key   = "IP"
      ban_duration_sec = 600
      rate_limit_threshold {
        count        = 6000
        interval_sec = 60
      }
      ban_threshold {
        count        = 30000
        interval_sec = 60
      }
    }
  }
  rule {
    action   = "allow"
    priority = 2147483647
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }
}

resource "google_compute_backend_service" "edge" {
  for_each = local.public_domains

  name                  = "${local.prefix}-edge"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  protocol              = "HTTPS"
  security_policy       = google_compute_security_policy.edge[each.key].id
  # these replace whatever the client has sent under the same names
  custom_request_headers = [
    "X-Edge-Key:${data.google_secret_manager_secret_version.edge_key[each.key].secret_data}",
    "X-Edge-Client-Address:{client_ip_address}",
  ]

  backend {
    group = google_compute_region_network_endpoint_group.api_gateway[each.key].id
  }
  log_config {
    enable      = true
    sample_rate = 0.1
  }
}

resource "google_compute_url_map" "edge" {
  for_each = local.public_domains

  name            = "${local.prefix}-edge"
  default_service = google_compute_backend_service.edge[each.key].id
}

# In the state as well, where it must be: it protects counters, and no data (docs/decisions).
data "google_secret_manager_secret_version" "edge_key" {
  for_each = local.public_domains

  secret = google_secret_manager_secret.this["edge-key"].id
}

# By a DNS record of its own, so that the certificate is there before the domain points here.
resource "google_certificate_manager_dns_authorization" "edge" {
  for_each = local.public_domains

  name   = "${local.prefix}-edge"
  domain = each.key
  # another project may hold one for the same domain, as during a move to another region
  type = "PER_PROJECT_RECORD"

  depends_on = [google_project_service.this["certificatemanager.googleapis.com"]]
}

resource "google_certificate_manager_certificate" "edge" {
  for_each = local.public_domains

  name = "${local.prefix}-edge"
  managed {
    domains            = [each.key]
    dns_authorizations = [google_certificate_manager_dns_authorization.edge[each.key].id]
  }
}

resource "google_certificate_manager_certificate_map" "edge" {
  for_each = local.public_domains

  name = "${local.prefix}-edge"

  depends_on = [google_project_service.this["certificatemanager.googleapis.com"]]
}

resource "google_certificate_manager_certificate_map_entry" "edge" {
  for_each = local.public_domains

  name         = "${local.prefix}-edge"
  map          = google_certificate_manager_certificate_map.edge[each.key].name
  hostname     = each.key
  certificates = [google_certificate_manager_certificate.edge[each.key].id]
}

resource "google_compute_ssl_policy" "edge" {
  for_each = local.public_domains

  name            = "${local.prefix}-edge"
  profile         = "RESTRICTED"
  min_tls_version = "TLS_1_2"
}

resource "google_compute_target_https_proxy" "edge" {
  for_each = local.public_domains

  name            = "${local.prefix}-edge"
  url_map         = google_compute_url_map.edge[each.key].id
  certificate_map = "//certificatemanager.googleapis.com/${google_certificate_manager_certificate_map.edge[each.key].id}"
  ssl_policy      = google_compute_ssl_policy.edge[each.key].id

  depends_on = [google_certificate_manager_certificate_map_entry.edge]
}

resource "google_compute_global_address" "edge" {
  for_each = local.public_domains

  name = "${local.prefix}-edge"
}

resource "google_compute_global_forwarding_rule" "edge" {
  for_each = local.public_domains

  name                  = "${local.prefix}-edge"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.edge[each.key].address
  port_range            = "443"
  target                = google_compute_target_https_proxy.edge[each.key].id
}

locals {
  public_domains = toset(var.public_domain == null ? [] : [var.public_domain])
}
