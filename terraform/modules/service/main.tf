# A Cloud Run service of ours: one image, started with the name of a Python module, behind one manner of checking
# its callers. Terraform owns all but the image and the traffic, which a deployment moves (cloudbuild.yaml).

terraform {
  required_providers {
    google = {
      source = "hashicorp/google"
    }
  }
}

resource "google_cloud_run_v2_service" "this" {
  name                = var.name
  location            = var.location
  ingress             = var.ingress
  deletion_protection = var.deletion_protection
  # Who calls with Cloud Run's own check arrives with the signature of the token removed. Services that verify their
  # callers' tokens themselves (signature, audience, e-mail: bridge/gcp/identity.py) therefore do without it, and
  # are not reachable from outside.
  invoker_iam_disabled = length(var.callers) == 0
  iap_enabled          = var.iap_enabled

  scaling {
    min_instance_count = var.scaling.min
    max_instance_count = var.scaling.max
  }

  template {
    service_account                  = var.service_account
    timeout                          = "${var.timeout_seconds}s"
    max_instance_request_concurrency = var.threads
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"

    scaling {
      max_instance_count = var.scaling.max
    }

    vpc_access {
      egress = var.network.egress
      network_interfaces {
        subnetwork = var.network.subnetwork
        tags       = var.network.tags
      }
    }

    containers {
      image = var.image
      args  = [var.module]

      ports {
        container_port = 8080
      }
      resources {
        limits            = { cpu = var.cpu, memory = var.memory }
        cpu_idle          = var.cpu_idle
        startup_cpu_boost = true
      }

      dynamic "env" {
        for_each = merge(var.environment, local.file_variables)
        content {
          name  = env.key
          value = env.value
        }
      }
      dynamic "env" {
        for_each = var.secret_variables
        content {
          name = env.key
          value_source {
            secret_key_ref {
              secret  = env.value
              version = "latest"
            }
          }
        }
      }

      # a revision gets no traffic before it has reached all it needs
      # Direct VPC egress may take a minute or more to connect: cloud.google.com/run/docs/configuring/vpc-direct-vpc
      startup_probe {
        period_seconds    = 3
        timeout_seconds   = 3
        failure_threshold = 80
        http_get {
          path = var.ready_path
        }
      }
      liveness_probe {
        period_seconds    = 10
        timeout_seconds   = 5
        failure_threshold = 6
        http_get {
          path = var.live_path
        }
      }

      dynamic "volume_mounts" {
        for_each = var.secret_files
        content {
          name       = volume_mounts.key
          mount_path = "${local.mount_point}/${volume_mounts.key}"
        }
      }
    }

    dynamic "volumes" {
      for_each = var.secret_files
      content {
        name = volumes.key
        secret {
          secret = volumes.value.id
          items {
            path    = volumes.value.file
            version = "latest"
          }
        }
      }
    }
  }

  traffic {
    type    = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
    percent = 100
  }

  lifecycle {
    # Not template[0].revision: a name that gcloud once gave would be sent again with another template, which is 409.
    # gcloud marks a deployment in labels and annotations.
    ignore_changes = [
      client,
      client_version,
      template[0].annotations,
      template[0].containers[0].image,
      template[0].labels,
      traffic,
    ]

    precondition {
      condition     = length(var.callers) > 0 || var.ingress == "INGRESS_TRAFFIC_INTERNAL_ONLY"
      error_message = "${var.name} is reachable from outside and nobody's token is checked before it: name its callers, or make its ingress internal."
    }
  }
}

resource "google_cloud_run_v2_service_iam_binding" "callers" {
  count = length(var.callers) > 0 ? 1 : 0

  name     = google_cloud_run_v2_service.this.name
  location = google_cloud_run_v2_service.this.location
  role     = "roles/run.invoker"
  members  = var.callers
}

locals {
  mount_point = "/secrets"
  file_variables = {
    for name, file in var.secret_files :
    file.variable => file.is_folder ? "${local.mount_point}/${name}" : "${local.mount_point}/${name}/${file.file}"
  }
}
