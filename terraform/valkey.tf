# Counts requests for all instances of the gateway together. It holds client ids and addresses for a day, nothing
# else, and may vanish: the gateway then counts nothing and refuses nobody.
resource "google_memorystore_instance" "counters" {
  instance_id    = "${local.prefix}-counters"
  location       = var.region
  mode           = "CLUSTER_DISABLED"
  shard_count    = 1
  replica_count  = var.redis.replica_count
  node_type      = var.redis.node_type
  engine_version = "VALKEY_8_0"
  # It has an address in our own network only. Its certificate is of a CA of its own, which the gateway's client
  # does not know: clear inside the network, rather than TLS that checks nothing.
  transit_encryption_mode     = "TRANSIT_ENCRYPTION_DISABLED"
  authorization_mode          = "AUTH_DISABLED"
  deletion_protection_enabled = var.deletion_protection

  engine_configs = {
    # full: what ends soonest goes first, and what is counted goes on being counted
    maxmemory-policy = "volatile-ttl"
  }
  persistence_config {
    mode = "DISABLED"
  }
  desired_auto_created_endpoints {
    network    = local.network_id
    project_id = var.project_id
  }

  depends_on = [google_network_connectivity_service_connection_policy.valkey, google_project_service.this["memorystore.googleapis.com"]]
}

locals {
  # A replica has an endpoint of its own, and no order is promised. Counting on it would fail.
  valkey_connections = flatten([
    for endpoint in google_memorystore_instance.counters.endpoints : [
      for connection in endpoint.connections : connection.psc_auto_connection
    ]
  ])
  valkey_primary = one([
    for connection in local.valkey_connections : connection if connection.connection_type == "CONNECTION_TYPE_PRIMARY"
  ])
  valkey_url = "redis://${local.valkey_primary.ip_address}:${local.valkey_primary.port}/0"
}
