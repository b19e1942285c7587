# Builds and deploys (cloudbuild.yaml). It may move images and traffic of what exists, and make nothing new.

resource "google_service_account" "deployer" {
  account_id   = "${local.prefix}-deployer"
  display_name = "Builds and deploys the bridge"
}

resource "google_artifact_registry_repository_iam_binding" "deployer" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.writer"
  members    = [google_service_account.deployer.member]
}

resource "google_project_iam_member" "deployer" {
  for_each = toset([
    "roles/logging.logWriter",
    "roles/monitoring.viewer",
    "roles/ondemandscanning.admin",
  ])

  project = var.project_id
  role    = each.key
  member  = google_service_account.deployer.member
}

resource "google_cloud_run_v2_service_iam_binding" "deployer" {
  for_each = merge(module.service, module.sap_mock)

  name     = each.value.name
  location = var.region
  role     = "roles/run.developer"
  members  = [google_service_account.deployer.member]
}

resource "google_cloud_run_v2_worker_pool_iam_binding" "deployer" {
  name     = google_cloud_run_v2_worker_pool.dispatcher.name
  location = var.region
  role     = "roles/run.developer"
  members  = [google_service_account.deployer.member]
}

resource "google_cloud_run_v2_job_iam_binding" "deployer" {
  for_each = google_cloud_run_v2_job.this

  name     = each.value.name
  location = var.region
  role     = "roles/run.developer"
  members  = [google_service_account.deployer.member]
}

# who deploys a revision has to be allowed to act as its account
resource "google_service_account_iam_binding" "deployer" {
  for_each = merge(google_service_account.process, google_service_account.sap_mock)

  service_account_id = each.value.name
  role               = "roles/iam.serviceAccountUser"
  members            = [google_service_account.deployer.member]
}

# to remove configs that no gateway uses any more
resource "google_api_gateway_api_iam_binding" "deployer" {
  provider = google-beta

  api     = google_api_gateway_api.this.api_id
  role    = "roles/apigateway.admin"
  members = [google_service_account.deployer.member]
}

resource "google_cloudbuild_trigger" "main" {
  count = var.build_repository == null ? 0 : 1

  name            = "${local.prefix}-main"
  description     = "Deploys main to ${var.environment}."
  location        = var.region
  service_account = google_service_account.deployer.id
  filename        = "cloudbuild.yaml"
  substitutions   = local.build_substitutions

  repository_event_config {
    repository = var.build_repository
    push {
      branch = "^main$"
    }
  }
  # a person looks at what goes to production
  approval_config {
    approval_required = var.environment == "prod"
  }

  depends_on = [google_project_service.this["cloudbuild.googleapis.com"]]
}

locals {
  build_substitutions = {
    _API           = google_api_gateway_api.this.api_id
    _API_REGION    = var.api_gateway_region
    _PREFIX        = local.prefix
    _REGION        = var.region
    _REGISTRY      = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"
    _WITH_SAP_MOCK = tostring(var.sap_mock)
  }
}
