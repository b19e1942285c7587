resource "google_sql_database_instance" "this" {
  #checkov:skip=CKV_GCP_79:the version is a variable of optional attributes, which checkov does not resolve
  name                = local.prefix
  database_version    = var.database.version
  region              = var.region
  deletion_protection = var.deletion_protection

  settings {
    tier                        = var.database.tier
    edition                     = "ENTERPRISE"
    availability_type           = var.database.availability_type
    disk_type                   = "PD_SSD"
    disk_size                   = var.database.disk_size_gb
    disk_autoresize             = true
    deletion_protection_enabled = var.deletion_protection
    # nobody connects but with the connector: mutual TLS and an IAM identity
    connector_enforcement = "REQUIRED"

    backup_configuration {
      enabled                        = true
      location                       = "eu"
      start_time                     = "01:00"
      point_in_time_recovery_enabled = true
      transaction_log_retention_days = var.database.transaction_log_days

      backup_retention_settings {
        retained_backups = var.database.backups
        retention_unit   = "COUNT"
      }
    }

    dynamic "database_flags" {
      for_each = local.database_flags
      content {
        name  = database_flags.key
        value = database_flags.value
      }
    }

    insights_config {
      query_insights_enabled  = true
      query_plans_per_minute  = 5
      query_string_length     = 1024
      record_application_tags = false
      record_client_address   = false
    }

    ip_configuration {
      ipv4_enabled       = false
      private_network    = local.network_id
      ssl_mode           = "TRUSTED_CLIENT_CERTIFICATE_REQUIRED"
      allocated_ip_range = var.network.existing == null ? google_compute_global_address.private_services[0].name : var.network.existing.private_services_name
    }

    maintenance_window {
      day          = var.database.maintenance_window_day
      hour         = var.database.maintenance_window_hour
      update_track = var.database.maintenance_update_track
    }
    # Cloud SQL takes one period, of 90 days at most; MM-DD comes again each year
    dynamic "deny_maintenance_period" {
      for_each = var.database.deny_maintenance[*]
      content {
        start_date = deny_maintenance_period.value.start_date
        end_date   = deny_maintenance_period.value.end_date
        time       = "00:00:00"
      }
    }

    # backups outlive the instance, and the last one is of the moment before its end
    retain_backups_on_delete = true
    final_backup_config {
      enabled        = true
      retention_days = 30
    }
  }

  lifecycle {
    prevent_destroy = true
    # disk_autoresize grows it
    ignore_changes = [settings[0].disk_size]

    precondition {
      condition     = local.database_connections_at_most + local.database_connections_reserved <= var.database.max_connections
      error_message = "All instances together may open ${local.database_connections_at_most} connections, and ${local.database_connections_reserved} are kept free: more than max_connections = ${var.database.max_connections}."
    }
  }

  depends_on = [google_service_networking_connection.private_services]
}

# A copy in another region, seconds behind: what a lost region then costs is seconds instead of a day
# (docs/runbooks/region-loss.md). It takes no requests.
resource "google_sql_database_instance" "replica" {
  #checkov:skip=CKV_GCP_79:the version is a variable of optional attributes, which checkov does not resolve
  #checkov:skip=CKV_GCP_14:a replica has no backups of its own; those of its primary are in the multi-region eu
  count = var.database.replica_region == null ? 0 : 1

  name                 = "${local.prefix}-replica"
  master_instance_name = google_sql_database_instance.this.name
  database_version     = var.database.version
  region               = var.database.replica_region
  deletion_protection  = var.deletion_protection

  settings {
    tier                        = var.database.tier
    edition                     = "ENTERPRISE"
    availability_type           = "ZONAL"
    disk_type                   = "PD_SSD"
    disk_autoresize             = true
    deletion_protection_enabled = var.deletion_protection
    connector_enforcement       = "REQUIRED"

    dynamic "database_flags" {
      for_each = local.database_flags
      content {
        name  = database_flags.key
        value = database_flags.value
      }
    }

    ip_configuration {
      ipv4_enabled       = false
      private_network    = local.network_id
      ssl_mode           = "TRUSTED_CLIENT_CERTIFICATE_REQUIRED"
      allocated_ip_range = var.network.existing == null ? google_compute_global_address.private_services[0].name : var.network.existing.private_services_name
    }
  }

  lifecycle {
    ignore_changes = [settings[0].disk_size]
  }
}

resource "google_sql_database" "this" {
  name     = local.prefix
  instance = google_sql_database_instance.this.name
  # a database is not deleted with its resource: the instance's protection would not cover it
  deletion_policy = "ABANDON"
}

# One login per process; the migration gives each the role of its name (0001_grants.sql), by DATABASE_LOGINS.
resource "google_sql_user" "process" {
  for_each = local.database_logins

  instance = google_sql_database_instance.this.name
  name     = each.value
  type     = "CLOUD_IAM_SERVICE_ACCOUNT"
  # what makes tables and roles; services get none of it
  database_roles = each.key == "migrate" ? [local.database_owner] : null
}

locals {
  # the replica needs the same: max_connections may not be less there
  database_flags = {
    "cloudsql.iam_authentication"         = "on"
    "cloudsql.enable_pgaudit"             = "on"
    "pgaudit.log"                         = "ddl,role"
    "max_connections"                     = tostring(var.database.max_connections)
    "idle_in_transaction_session_timeout" = "15000"
    "log_checkpoints"                     = "on"
    "log_connections"                     = "on"
    "log_disconnections"                  = "on"
    "log_duration"                        = "off"
    "log_lock_waits"                      = "on"
    "log_min_duration_statement"          = "-1"
    "log_min_error_statement"             = "error"
    "log_min_messages"                    = "warning"
    "log_statement"                       = "ddl"
    "log_temp_files"                      = "0"
  }
  # Cloud SQL knows no superuser; this role may create roles and is what its own tools use
  database_owner = "cloudsqlsuperuser"
  # an IAM login is the account's e-mail without its last part
  database_logins = {
    for key in local.processes : key => "${local.names[key]}@${var.project_id}.iam"
  }
  # migrations, the superuser's, an operator's, Cloud SQL's own, and a second pair of dispatchers while they are replaced. A
  # service's maximum counts the instances of all its revisions together, so that a rollout opens no more.
  database_connections_reserved = 20
  database_connections_at_most = sum([
    for key, service in local.services : service.connections * var.scaling[key].max if service.connections > 0
  ]) + local.dispatcher.connections * var.scaling["dispatcher"].max + length(local.jobs)
  database_environment = {
    for key in local.processes : key => {
      CLOUD_SQL_INSTANCE = google_sql_database_instance.this.connection_name
      DATABASE_NAME      = google_sql_database.this.name
      DATABASE_USER      = local.database_logins[key]
    }
  }
}
