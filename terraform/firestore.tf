# The record of the partners' configurations; the bridge's own payments are in PostgreSQL.
resource "google_firestore_database" "partners" {
  name                              = "${local.prefix}-partners"
  location_id                       = var.region
  type                              = "FIRESTORE_NATIVE"
  concurrency_mode                  = "OPTIMISTIC"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_ENABLED"
  delete_protection_state           = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy                   = "ABANDON"

  depends_on = [google_project_service.this["firestore.googleapis.com"]]
}

resource "google_firestore_backup_schedule" "daily" {
  database  = google_firestore_database.partners.name
  retention = "1209600s"

  daily_recurrence {}
}

# Firestore has no grants on a database, only a condition on the project's.
resource "google_project_iam_member" "firestore" {
  for_each = local.firestore_roles

  project = var.project_id
  role    = each.value
  member  = google_service_account.process[each.key].member

  condition {
    title      = "the partners' database only"
    expression = "resource.name == \"${google_firestore_database.partners.id}\""
  }
}

locals {
  firestore_roles = {
    # partners change their webhook endpoints themselves
    gateway     = "roles/datastore.user"
    sap_adapter = "roles/datastore.viewer"
    webhooks    = "roles/datastore.viewer"
    partners    = "roles/datastore.user"
  }
}
