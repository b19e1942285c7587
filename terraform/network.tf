# Services reach the database, Valkey and SAP by private addresses, and partners through fixed public ones.

resource "google_compute_network" "this" {
  name                            = local.prefix
  auto_create_subnetworks         = false
  delete_default_routes_on_create = false

  depends_on = [google_project_service.this["compute.googleapis.com"]]
}

resource "google_compute_subnetwork" "services" {
  name    = "${local.prefix}-services"
  network = google_compute_network.this.id
  region  = var.region
  # direct VPC egress takes two addresses per instance, and four times as many while revisions change
  ip_cidr_range            = "10.20.0.0/22"
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "EXCLUDE_ALL_METADATA"
  }
}

# --- private services access: Cloud SQL -----------------------------------------------------------------------

resource "google_compute_global_address" "private_services" {
  name          = "${local.prefix}-private-services"
  network       = google_compute_network.this.id
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  address       = "10.30.0.0"
  prefix_length = 20
}

resource "google_service_networking_connection" "private_services" {
  network                 = google_compute_network.this.id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.private_services.name]

  depends_on = [google_project_service.this["servicenetworking.googleapis.com"]]
}

# --- private service connect: Valkey --------------------------------------------------------------------------

resource "google_network_connectivity_service_connection_policy" "valkey" {
  name          = "${local.prefix}-valkey"
  location      = var.region
  network       = google_compute_network.this.id
  service_class = "gcp-memorystore"

  psc_config {
    subnetworks = [google_compute_subnetwork.services.id]
  }

  depends_on = [google_project_service.this["networkconnectivity.googleapis.com"]]
}

# --- out to partners: addresses that they can put on their lists ----------------------------------------------

resource "google_compute_address" "egress" {
  count = 2

  name   = "${local.prefix}-egress-${count.index + 1}"
  region = var.region
}

resource "google_compute_router" "this" {
  name    = local.prefix
  network = google_compute_network.this.id
  region  = var.region
}

resource "google_compute_router_nat" "this" {
  name                               = local.prefix
  router                             = google_compute_router.this.name
  region                             = var.region
  nat_ip_allocate_option             = "MANUAL_ONLY"
  nat_ips                            = google_compute_address.egress[*].self_link
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"

  subnetwork {
    name                    = google_compute_subnetwork.services.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }
  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}

# --- what a webhook may reach ----------------------------------------------------------------------------------
# The service refuses private addresses itself, at every attempt; this holds if it ever fails to.

resource "google_compute_firewall" "webhooks_to_database" {
  name               = "${local.prefix}-webhooks-to-database"
  network            = google_compute_network.this.id
  direction          = "EGRESS"
  priority           = 900
  target_tags        = [local.webhooks_network_tag]
  destination_ranges = ["${google_compute_global_address.private_services.address}/${google_compute_global_address.private_services.prefix_length}"]

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
  name               = "${local.prefix}-webhooks-to-nothing-private"
  network            = google_compute_network.this.id
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

locals {
  webhooks_network_tag = "${local.prefix}-webhooks"
}
