# What needs no image and no secret's value. README.md applies it first: it is the one target that has to be named, and
# takes a quarter of an hour, in which the images can be built.
resource "terraform_data" "foundation" {
  depends_on = [
    google_artifact_registry_repository.cache,
    google_artifact_registry_repository.docker_hub,
    google_artifact_registry_repository.images,
    google_certificate_manager_dns_authorization.edge,
    google_firestore_database.marks,
    google_firestore_database.partners,
    google_kms_crypto_key.ring,
    google_kms_crypto_key_iam_binding.wrap,
    google_memorystore_instance.counters,
    google_project_iam_audit_config.this,
    google_project_service.this,
    google_secret_manager_secret.this,
    google_secret_manager_secret_iam_binding.managers,
    google_sql_database_instance.this,
    google_storage_bucket.public_keys,
    google_storage_bucket_iam_binding.public_keys_readers,
    google_storage_bucket_iam_binding.public_keys_writers,
  ]
}
