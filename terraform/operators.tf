# How operators reach `partners` and `backoffice`: Identity-Aware Proxy on the services' own addresses (decision 27).
# It lets in the people of `var.operators` and says who they are in an assertion, which the services verify.

resource "google_project_service_identity" "iap" {
  provider = google-beta
  service  = google_project_service.this["iap.googleapis.com"].service
}

resource "google_iap_web_cloud_run_service_iam_binding" "operators" {
  for_each = local.operators_services

  cloud_run_service_name = module.service[each.key].name
  location               = var.region
  role                   = "roles/iap.httpsResourceAccessor"
  members                = [for operator in var.operators : "${endswith(operator, ".gserviceaccount.com") ? "serviceAccount" : "user"}:${operator}"]
}

# A command line signs in with a client of its own (an OAuth client of the type "desktop"), which has to be listed.
resource "google_iap_settings" "operators" {
  count = var.operator_client_id == null ? 0 : 1

  name = "projects/${data.google_project.this.number}/iap_web"

  access_settings {
    oauth_settings {
      programmatic_clients = [var.operator_client_id]
    }
  }

  depends_on = [google_project_service.this["iap.googleapis.com"]]
}

locals {
  operators_services = toset(["partners", "backoffice"])
  operator_environments = {
    for key in local.operators_services : key => {
      OPERATORS               = join(",", var.operators)
      OPERATOR_AUDIENCE       = "/projects/${data.google_project.this.number}/locations/${var.region}/services/${local.names[key]}"
      OPERATOR_AUTHENTICATION = "iap"
    }
  }
}
