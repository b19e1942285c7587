# Each key here wraps the data keys of one ring (bridge/keyring.py); the rings themselves are secrets.
resource "google_kms_key_ring" "this" {
  name = local.prefix
  # several regions: a lost one must not take the names and accounts with it (docs/runbooks/region-loss.md)
  location = "europe"

  depends_on = [google_project_service.this["cloudkms.googleapis.com"]]
}

resource "google_kms_crypto_key" "ring" {
  for_each = local.key_rings

  name     = each.key
  key_ring = google_kms_key_ring.this.id
  purpose  = "ENCRYPT_DECRYPT"
  # 90 days; older versions go on unwrapping
  rotation_period            = "7776000s"
  destroy_scheduled_duration = "2592000s"

  lifecycle {
    # what is encrypted under it would be gone with it
    prevent_destroy = true
  }
}

resource "google_kms_crypto_key_iam_binding" "unwrap" {
  for_each = local.key_rings

  crypto_key_id = google_kms_crypto_key.ring[each.key].id
  role          = "roles/cloudkms.cryptoKeyDecrypter"
  members       = [for reader in each.value : google_service_account.process[reader].member]
}

resource "google_kms_crypto_key_iam_binding" "wrap" {
  for_each = local.key_rings

  crypto_key_id = google_kms_crypto_key.ring[each.key].id
  role          = "roles/cloudkms.cryptoKeyEncrypter"
  members       = var.key_managers
}

locals {
  # key: who unwraps the ring under it
  key_rings = {
    party-data      = local.secrets["party-key-ring"].readers
    webhook-secrets = local.secrets["webhook-key-ring"].readers
  }
}
