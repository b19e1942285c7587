# Who read a key or a secret, changed a partner's document, or came in as an operator. Google writes these logs only
# where they are asked for, and two runbooks read them.
resource "google_project_iam_audit_config" "this" {
  for_each = local.audited

  project = var.project_id
  service = each.key

  dynamic "audit_log_config" {
    for_each = toset(each.value)
    content {
      log_type = audit_log_config.value
    }
  }

  depends_on = [google_project_service.this]
}

# Logs stay in the region. `_Required`, which nobody can move, keeps Google's admin activity in `global`.
resource "google_logging_project_bucket_config" "regional" {
  project        = var.project_id
  location       = var.region
  bucket_id      = local.prefix
  retention_days = 90

  depends_on = [google_project_service.this["logging.googleapis.com"]]
}

# The sink that every project has; the provider takes it over and changes where it leads.
resource "google_logging_project_sink" "default" {
  name                   = "_Default"
  destination            = "logging.googleapis.com/${google_logging_project_bucket_config.regional.id}"
  filter                 = "NOT LOG_ID(\"cloudaudit.googleapis.com/activity\") AND NOT LOG_ID(\"cloudaudit.googleapis.com/system_event\") AND NOT LOG_ID(\"cloudaudit.googleapis.com/access_transparency\")"
  unique_writer_identity = true
}

locals {
  audited = {
    "cloudkms.googleapis.com"      = ["DATA_READ"]
    "cloudsql.googleapis.com"      = ["DATA_READ", "DATA_WRITE"]
    "datastore.googleapis.com"     = ["DATA_WRITE"]
    "iam.googleapis.com"           = ["DATA_READ"]
    "iap.googleapis.com"           = ["DATA_READ"]
    "secretmanager.googleapis.com" = ["DATA_READ"]
  }
}
