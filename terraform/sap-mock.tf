# A believable SAP for environments without one. It checks HTTP Basic itself; its documents live as long as its one
# instance does.
module "sap_mock" {
  source   = "./modules/service"
  for_each = toset(local.sap_mock_keys)

  callers             = []
  cpu                 = "1"
  cpu_idle            = false
  deletion_protection = var.deletion_protection
  environment = {
    SAP_MOCK_DATA    = "/tmp/sap_mock.sqlite"
    SAP_MOCK_SEED    = "1"
    SAP_MOCK_SYSTEMS = join(",", keys(var.sap_systems))
    SAP_MOCK_USER    = "sap"
    THREADS          = "64"
  }
  image            = var.sap_mock_image
  ingress          = "INGRESS_TRAFFIC_INTERNAL_ONLY"
  live_path        = "/_control/stats"
  ready_path       = "/_control/stats"
  location         = var.region
  memory           = "512Mi"
  module           = "sap_mock"
  name             = local.names["sap_mock"]
  network          = { network = local.network_id, subnetwork = local.subnetwork_ids["services"], egress = "PRIVATE_RANGES_ONLY", tags = [] }
  scaling          = { min = 1, max = 1 }
  secret_variables = { SAP_MOCK_PASSWORD = google_secret_manager_secret.this["sap-mock-password"].secret_id }
  service_account  = google_service_account.sap_mock[each.key].email
  threads          = 64
  timeout_seconds  = 120

  depends_on = [google_project_service.this, google_secret_manager_secret_iam_binding.sap_mock_password]
}

resource "google_service_account" "sap_mock" {
  for_each = toset(local.sap_mock_keys)

  account_id   = local.names[each.key]
  display_name = "SAP mock"
}

resource "google_secret_manager_secret_iam_binding" "sap_mock_password" {
  for_each = toset(local.sap_mock_keys)

  secret_id = google_secret_manager_secret.this["sap-mock-password"].id
  role      = "roles/secretmanager.secretAccessor"
  members   = [google_service_account.sap_mock[each.key].member]
}

locals {
  sap_mock_keys = var.sap_mock ? ["sap_mock"] : []
}
