# Containers and who reads them. Values are added by hand (`gcloud secrets versions add`) and never stand in a state.

locals {
  # variable: what tells a service the mounted file, or its folder
  secrets = merge(
    var.public_domain == null ? {} : {
      edge-key = { file = "edge-key", variable = "EDGE_KEY", is_folder = false, readers = ["gateway"] }
    },
    {
      fingerprint-key     = { file = "fingerprint-key", variable = "FINGERPRINT_KEY", is_folder = false, readers = ["gateway"] }
      party-key-ring      = { file = "party-key-ring.json", variable = "PARTY_KEY_RING", is_folder = false, readers = ["gateway", "sap_adapter"] }
      receipt-signing-key = { file = "receipt-signing-key.pem", variable = "RECEIPT_SIGNING_KEY", is_folder = false, readers = ["gateway"] }
      sap-connections     = { file = "sap-connections.json", variable = "SAP_CONNECTIONS_FILE", is_folder = false, readers = ["sap_adapter", "recover"] }
      # the name is what the gateway looks for in its folder (`bridge keys bundle`)
      token-signing-keys = { file = "signing-keys.json", variable = "TOKEN_SIGNING_KEYS_DIR", is_folder = true, readers = ["gateway"] }
      webhook-key-ring   = { file = "webhook-key-ring.json", variable = "WEBHOOK_KEY_RING", is_folder = false, readers = ["gateway", "webhooks"] }
    },
  )
  secret_files = {
    for reader in local.processes : reader => {
      for name, secret in local.secrets : name => merge(secret, { id = google_secret_manager_secret.this[name].secret_id })
      if contains(secret.readers, reader)
    }
  }
}

resource "google_secret_manager_secret" "this" {
  # the pipeline, not a service, reads canary-client
  for_each = merge(local.secrets, { canary-client = null }, var.sap_mock ? { sap-mock-password = null } : {})

  secret_id           = each.key
  deletion_protection = var.deletion_protection

  replication {
    user_managed {
      dynamic "replicas" {
        for_each = [var.region, var.recovery_region]
        content {
          location = replicas.value
        }
      }
    }
  }

  depends_on = [google_project_service.this["secretmanager.googleapis.com"]]
}

resource "google_secret_manager_secret_iam_binding" "readers" {
  for_each = local.secrets

  secret_id = google_secret_manager_secret.this[each.key].id
  role      = "roles/secretmanager.secretAccessor"
  members   = [for reader in each.value.readers : google_service_account.process[reader].member]
}

resource "google_secret_manager_secret_iam_binding" "managers" {
  for_each = google_secret_manager_secret.this

  secret_id = each.value.id
  role      = "roles/secretmanager.secretVersionAdder"
  members   = var.key_managers
}
