# The bucket is made by hand and named after the project (README.md, step 1):
# `terraform init -backend-config=bucket=PROJECT-terraform`.
terraform {
  backend "gcs" {
    prefix = "bridge"
  }
}
