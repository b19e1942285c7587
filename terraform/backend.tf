# `terraform init -backend-config=environments/<environment>.backend.hcl` names the bucket.
terraform {
  backend "gcs" {}
}
