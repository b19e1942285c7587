# Every process has an account of its own. What it may do with one thing stands beside that thing; here is what only
# a project can grant.

locals {
  processes = concat(keys(local.services), ["dispatcher"], keys(local.jobs))
}

resource "google_service_account" "process" {
  for_each = toset(local.processes)

  account_id   = local.names[each.key]
  display_name = "${each.key} of the Partner Payments Bridge"

  depends_on = [google_project_service.this["iam.googleapis.com"]]
}

resource "google_project_iam_member" "process" {
  for_each = {
    for grant in flatten([
      for role, processes in local.project_roles : [for process in processes : { process = process, role = role }]
    ]) : "${grant.process} ${grant.role}" => grant
  }

  project = var.project_id
  role    = each.value.role
  member  = google_service_account.process[each.value.process].member

  # the database's roles hold for our instance, not for whatever else the project has
  dynamic "condition" {
    for_each = startswith(each.value.role, "roles/cloudsql.") ? [local.database_resource] : []
    content {
      title      = "our database only"
      expression = "resource.name == \"${condition.value}\" && resource.service == \"sqladmin.googleapis.com\""
    }
  }
}

locals {
  traced   = ["gateway", "dispatcher", "sap_adapter", "webhooks"]
  measured = concat(local.traced, ["backoffice"])
  project_roles = {
    "roles/cloudsql.client"         = local.processes
    "roles/cloudsql.instanceUser"   = local.processes
    "roles/cloudtrace.agent"        = local.traced
    "roles/telemetry.metricsWriter" = local.measured
  }
  database_resource = "projects/${var.project_id}/instances/${google_sql_database_instance.this.name}"
}
