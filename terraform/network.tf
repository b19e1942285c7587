# Services reach the database, Valkey and SAP by private addresses. What leaves for SAP over the internet and what leaves
# for partners' webhooks has different fixed addresses: whoever allows the one does not allow the other.
#
# With `var.network.existing` all of this belongs to somebody else; README.md says what that network has to bring.

resource "google_compute_network" "this" {
  count = local.own_network

  name                            = local.prefix
  auto_create_subnetworks         = false
  delete_default_routes_on_create = false

  depends_on = [google_project_service.this["compute.googleapis.com"]]
}

# Direct VPC egress takes two addresses per instance, and four times as many while revisions change.
resource "google_compute_subnetwork" "this" {
  for_each = local.own_subnetworks

  name                     = "${local.prefix}-${each.key}"
  network                  = local.network_id
  region                   = var.region
  ip_cidr_range            = each.value
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "EXCLUDE_ALL_METADATA"
  }
}

# --- private services access: Cloud SQL -----------------------------------------------------------------------

resource "google_compute_global_address" "private_services" {
  count = local.own_network

  name          = "${local.prefix}-private-services"
  network       = local.network_id
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  address       = split("/", var.network.private_services_range)[0]
  prefix_length = tonumber(split("/", var.network.private_services_range)[1])
}

resource "google_service_networking_connection" "private_services" {
  count = local.own_network

  network                 = local.network_id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.private_services[0].name]

  depends_on = [google_project_service.this["servicenetworking.googleapis.com"]]
}

# --- private service connect: Valkey --------------------------------------------------------------------------

resource "google_network_connectivity_service_connection_policy" "valkey" {
  count = local.own_network

  name          = "${local.prefix}-valkey"
  location      = var.region
  network       = local.network_id
  service_class = "gcp-memorystore"

  psc_config {
    subnetworks = [google_compute_subnetwork.this["services"].id]
  }

  depends_on = [google_project_service.this["networkconnectivity.googleapis.com"]]
}

# --- out to the internet, from addresses that the other side can put on its list ----------------------------------

resource "google_compute_address" "egress" {
  for_each = { for pair in setproduct(keys(local.own_subnetworks), range(local.nat_addresses)) : "${pair[0]}-${pair[1] + 1}" => pair[0] }

  name   = "${local.prefix}-egress-${each.key}"
  region = var.region
}

resource "google_compute_router" "this" {
  count = local.own_network

  name    = local.prefix
  network = local.network_id
  region  = var.region
}

resource "google_compute_router_nat" "this" {
  for_each = local.own_subnetworks

  name                               = "${local.prefix}-${each.key}"
  router                             = google_compute_router.this[0].name
  region                             = var.region
  nat_ip_allocate_option             = "MANUAL_ONLY"
  nat_ips                            = [for name, address in google_compute_address.egress : address.self_link if startswith(name, "${each.key}-")]
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"
  # 64 by default. A closed connection keeps its port for two minutes by default, and one partner may take ten webhooks
  # a second at one address.
  min_ports_per_vm          = local.nat_ports_per_instance[each.key]
  tcp_time_wait_timeout_sec = 30

  subnetwork {
    name                    = google_compute_subnetwork.this[each.key].id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }
  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }

  lifecycle {
    precondition {
      # twice: both revisions run during a rollout
      condition     = 2 * local.nat_instances[each.key] * local.nat_ports_per_instance[each.key] <= local.nat_addresses * local.nat_ports_per_address
      error_message = "${local.nat_instances[each.key]} instances, twice during a rollout, need ${local.nat_ports_per_instance[each.key]} ports each: more than ${local.nat_addresses} addresses have."
    }
  }
}

# --- what a webhook may reach ----------------------------------------------------------------------------------
# The service refuses private addresses itself, at every attempt; this holds if it ever fails to.

resource "google_compute_firewall" "webhooks_to_database" {
  count = local.own_network

  name               = "${local.prefix}-webhooks-to-database"
  network            = google_compute_network.this[0].name
  direction          = "EGRESS"
  priority           = 900
  target_tags        = [local.webhooks_network_tag]
  destination_ranges = [var.network.private_services_range]

  allow {
    protocol = "tcp"
    # the connector's proxy port, and PostgreSQL itself
    ports = ["3307", "5432"]
  }
  log_config {
    metadata = "EXCLUDE_ALL_METADATA"
  }
}

resource "google_compute_firewall" "webhooks_to_nothing_private" {
  count = local.own_network

  name               = "${local.prefix}-webhooks-to-nothing-private"
  network            = google_compute_network.this[0].name
  direction          = "EGRESS"
  priority           = 1000
  target_tags        = [local.webhooks_network_tag]
  destination_ranges = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"]

  deny {
    protocol = "all"
  }
  log_config {
    metadata = "INCLUDE_ALL_METADATA"
  }
}

# --- names of an on-premise SAP ------------------------------------------------------------------------------------

resource "google_dns_managed_zone" "sap" {
  for_each = var.private_dns

  name        = "${local.prefix}-${replace(trimsuffix(each.key, "."), ".", "-")}"
  dns_name    = each.key
  description = "Answered by the network that SAP is in."
  visibility  = "private"

  private_visibility_config {
    networks {
      network_url = local.network_id
    }
  }
  forwarding_config {
    dynamic "target_name_servers" {
      for_each = toset(each.value)
      content {
        ipv4_address = target_name_servers.value
        # through the VPN or Interconnect, not over the internet
        forwarding_path = "private"
      }
    }
  }

  depends_on = [google_project_service.this["dns.googleapis.com"]]
}

locals {
  own_network = var.network.existing == null ? 1 : 0
  own_subnetworks = var.network.existing == null ? {
    services = var.network.services_range
    webhooks = var.network.webhooks_range
  } : {}
  network_id = var.network.existing == null ? google_compute_network.this[0].id : var.network.existing.network
  subnetwork_ids = {
    for name in ["services", "webhooks"] : name => (
      var.network.existing == null ? google_compute_subnetwork.this[name].id : var.network.existing["${name}_subnetwork"]
    )
  }

  nat_addresses          = 2
  nat_ports_per_instance = { services = 1024, webhooks = 2048 }
  # 65,536 without the well-known ones
  nat_ports_per_address = 64512
  # instances in each subnetwork, at most
  nat_instances = {
    services = sum([for key, bounds in var.scaling : bounds.max if key != "webhooks"])
    webhooks = var.scaling["webhooks"].max
  }
  webhooks_network_tag = "${local.prefix}-webhooks"
}
