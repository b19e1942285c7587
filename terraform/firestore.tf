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

# The high-water mark, by which a database that was put back to an earlier state is known. A database of its own:
# nobody but the dispatcher writes it, and partners' documents can be put back without it. It needs no backup.
resource "google_firestore_database" "marks" {
  name                    = "${local.prefix}-marks"
  location_id             = var.region
  type                    = "FIRESTORE_NATIVE"
  concurrency_mode        = "OPTIMISTIC"
  delete_protection_state = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy         = "ABANDON"

  depends_on = [google_project_service.this["firestore.googleapis.com"]]
}

# Firestore has no grants on a database, only a condition on the project's.
resource "google_project_iam_member" "firestore" {
  for_each = local.firestore_roles

  project = var.project_id
  role    = each.value.role
  member  = google_service_account.process[each.key].member

  condition {
    title      = "one database only"
    expression = "resource.name == \"${each.value.database}\""
  }
}

locals {
  firestore_roles = merge(
    # partners change their webhook endpoints themselves
    { for process in ["gateway", "partners"] : process => { role = "roles/datastore.user", database = google_firestore_database.partners.id } },
    { for process in ["sap_adapter", "webhooks"] : process => { role = "roles/datastore.viewer", database = google_firestore_database.partners.id } },
    { dispatcher = { role = "roles/datastore.user", database = google_firestore_database.marks.id } },
  )
}
