# The public edge: which routes exist and who may call them stands in api-gateway.yaml, which the local stack's Envoy
# reads as well.

resource "google_service_account" "api_gateway" {
  account_id   = "${local.prefix}-api-gateway"
  display_name = "API Gateway"
  description  = "Whose identity token calls the gateway service; nobody else may."
}

resource "google_api_gateway_api" "this" {
  provider = google-beta

  api_id       = local.prefix
  display_name = "Partner Payments Bridge"

  depends_on = [google_project_service.this["apigateway.googleapis.com"]]
}

# A config never changes: another specification is another config, made before the gateway lets go of the old one.
resource "google_api_gateway_api_config" "this" {
  provider = google-beta

  api           = google_api_gateway_api.this.api_id
  api_config_id = "v1-${substr(sha256(local.api_specification), 0, 16)}"
  display_name  = "Partner Payments Bridge v1"

  openapi_documents {
    document {
      # JSON: API Gateway's converter reads YAML aliases as strings, and api-gateway.yaml has many
      path     = "api-gateway.json"
      contents = base64encode(jsonencode(yamldecode(local.api_specification)))
    }
  }
  gateway_config {
    backend_config {
      google_service_account = google_service_account.api_gateway.email
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_api_gateway_gateway" "this" {
  provider = google-beta

  gateway_id   = local.prefix
  api_config   = google_api_gateway_api_config.this.id
  region       = var.api_gateway_region
  display_name = "Partner Payments Bridge"
}

# --- what anybody may read: keys and metadata, written by `bridge keys publish` --------------------------------

resource "google_storage_bucket" "public_keys" {
  #checkov:skip=CKV_GCP_114:public keys are for everybody (docs/api.md, Tokens): it is the one public thing
  #checkov:skip=CKV_GCP_62:what is public and read all day by the API Gateway tells nothing by its access logs
  name                        = "${var.project_id}-public-keys"
  location                    = var.region
  force_destroy               = false
  uniform_bucket_level_access = true
  public_access_prevention    = "inherited"

  versioning {
    enabled = true
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      num_newer_versions = 50
    }
  }
  cors {
    origin          = ["*"]
    method          = ["GET"]
    response_header = ["Content-Type"]
    max_age_seconds = 300
  }
}

# The only grant to everybody: the API Gateway and receivers fetch keys without credentials. This role reads an object
# whose name one knows, and lists nothing.
resource "google_storage_bucket_iam_binding" "public_keys_readers" {
  #checkov:skip=CKV_GCP_28:public keys are for everybody (docs/api.md, Tokens), and this role lists nothing
  bucket  = google_storage_bucket.public_keys.name
  role    = "roles/storage.legacyObjectReader"
  members = ["allUsers"]
}

resource "google_storage_bucket_iam_binding" "public_keys_writers" {
  bucket  = google_storage_bucket.public_keys.name
  role    = "roles/storage.objectUser"
  members = var.key_managers
}

locals {
  api_specification = templatefile("${path.module}/api-gateway.yaml", {
    gateway_url    = local.urls["gateway"]
    jwks_uri       = local.jwks_uri
    token_audience = var.token_issuer
    token_issuer   = var.token_issuer
  })
  jwks_uri = "https://storage.googleapis.com/${var.project_id}-public-keys/.well-known/jwks.json"
}
