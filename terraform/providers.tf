provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = local.labels
}

# The Billing Budgets API refuses a person's credentials (403) unless the request names a project to be counted for.
provider "google" {
  alias                 = "billing"
  project               = var.project_id
  billing_project       = var.project_id
  user_project_override = true
}

# API Gateway and the service agents exist in google-beta only.
provider "google-beta" {
  project        = var.project_id
  region         = var.region
  default_labels = local.labels
}

data "google_project" "this" {}

locals {
  labels = {
    system      = "partner-payments-bridge"
    environment = var.environment
  }
  # "gateway" is known to Cloud Run as this, and its account by the same name
  prefix = "bridge"
  names  = { for key in concat(local.processes, local.sap_mock_keys) : key => "${local.prefix}-${replace(key, "_", "-")}" }
  # Cloud Run's predictable address: a service has to be told its own before it exists
  urls = {
    for key in concat(keys(local.services), local.sap_mock_keys) :
    key => "https://${local.names[key]}-${data.google_project.this.number}.${var.region}.run.app"
  }
}
