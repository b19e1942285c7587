# Builds and deploys: staging from a push (cloudbuild.yaml), production by promoting what staging has run
# (promote.cloudbuild.yaml). It may move images and traffic of what exists, and make nothing new.

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

resource "google_artifact_registry_repository_iam_binding" "cache" {
  repository = google_artifact_registry_repository.cache.name
  location   = var.region
  role       = "roles/artifactregistry.writer"
  members    = [google_service_account.deployer.member]
}

resource "google_artifact_registry_repository_iam_binding" "docker_hub" {
  repository = google_artifact_registry_repository.docker_hub.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  members    = [google_service_account.deployer.member]
}

# production copies images from here
resource "google_artifact_registry_repository_iam_binding" "promoters" {
  count = length(var.promoters) > 0 ? 1 : 0

  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  members    = var.promoters
}

resource "google_project_iam_member" "deployer" {
  for_each = toset([
    # waits for an older build to end
    "roles/cloudbuild.builds.viewer",
    # writes the build's own log
    "roles/logging.logWriter",
    "roles/monitoring.viewer",
    "roles/ondemandscanning.admin",
    # an update of a worker pool is an operation of the location, not of the pool
    "roles/run.viewer",
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

# to call the gateway's new revision with an identity token
resource "google_service_account_iam_binding" "deployer_identity" {
  service_account_id = google_service_account.deployer.name
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  members            = [google_service_account.deployer.member]

  depends_on = [google_project_service.this["iamcredentials.googleapis.com"]]
}

# to pay as the canary partner
resource "google_secret_manager_secret_iam_binding" "canary" {
  secret_id = google_secret_manager_secret.this["canary-client"].id
  role      = "roles/secretmanager.secretAccessor"
  members   = [google_service_account.deployer.member]
}

resource "google_cloudbuild_trigger" "main" {
  count = var.build_repository == null ? 0 : 1

  name            = "${local.prefix}-main"
  description     = "Deploys main to ${var.environment}."
  location        = var.region
  service_account = google_service_account.deployer.id
  filename        = var.promote_from == null ? "cloudbuild.yaml" : "promote.cloudbuild.yaml"
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
  build_substitutions = merge({
    _API           = var.token_issuer
    _HUB           = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.docker_hub.repository_id}"
    _PREFIX        = local.prefix
    _REGION        = var.region
    _REGISTRY      = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"
    _WITH_SAP_MOCK = tostring(var.sap_mock)
    }, var.promote_from == null ? {
    _CACHE = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.cache.repository_id}"
    } : {
    _FROM = var.promote_from
  })
}
