# What runs and ends: migrations at each deployment, erasing once a day, recovery after a restored backup.

locals {
  jobs = {
    migrate = {
      egress          = "PRIVATE_RANGES_ONLY"
      module          = "bridge.storage.migrate"
      timeout_seconds = 3600
      # twice would do no harm, but who deploys wants to see the first failure
      retries = 0
    }
    erase = {
      egress          = "PRIVATE_RANGES_ONLY"
      module          = "bridge.storage.erase"
      timeout_seconds = 3600
      retries         = 3
    }
    recover = {
      # SAP is in our network or beyond its VPN; the mock is found by its run.app address
      egress          = "ALL_TRAFFIC"
      module          = "sap_adapter.recover"
      timeout_seconds = 86400
      # it carries on where it was stopped
      retries = 3
    }
  }
  job_environments = {
    # started by hand (`bridge recover`); it asks SAP as the adapter does
    recover = merge(local.settling_environment, {
      SAP_CONNECT_TIMEOUT_SECONDS = tostring(var.sap_timing.connect_timeout_seconds)
      SAP_READ_TIMEOUT_SECONDS    = tostring(var.sap_timing.read_timeout_seconds)
    })
    migrate = {
      # tables belong to this role, whoever migrates
      DATABASE_OWNER  = local.database_owner
      DATABASE_LOGINS = jsonencode({ for process, role in local.database_roles : role => local.database_logins[process] })
      SAP_SYSTEMS     = jsonencode(var.sap_systems)
    }
    erase = {
      ERASE_AFTER_DAYS    = "30"
      FEED_RETENTION_DAYS = "90"
      REFUND_WINDOW_DAYS  = tostring(var.refund_window_days)
    }
  }
  # process: its role in 0001_grants.sql
  database_roles = merge(
    { for key in keys(local.services) : key => key },
    { dispatcher = "dispatcher", erase = "retention", recover = "recovery" },
  )
}

resource "google_cloud_run_v2_job" "this" {
  for_each = local.jobs

  name                = local.names[each.key]
  location            = var.region
  deletion_protection = var.deletion_protection

  template {
    template {
      service_account = google_service_account.process[each.key].email
      timeout         = "${each.value.timeout_seconds}s"
      max_retries     = each.value.retries

      vpc_access {
        egress = each.value.egress
        network_interfaces {
          subnetwork = local.subnetwork_ids["services"]
        }
      }

      containers {
        image = var.services_image
        args  = [each.value.module]

        resources {
          limits = { cpu = "1", memory = "512Mi" }
        }

        dynamic "env" {
          for_each = merge(
            local.job_environments[each.key],
            local.database_environment[each.key],
            { for name, file in local.secret_files[each.key] : file.variable => "/secrets/${name}/${file.file}" },
          )
          content {
            name  = env.key
            value = env.value
          }
        }

        dynamic "volume_mounts" {
          for_each = local.secret_files[each.key]
          content {
            name       = volume_mounts.key
            mount_path = "/secrets/${volume_mounts.key}"
          }
        }
      }

      dynamic "volumes" {
        for_each = local.secret_files[each.key]
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
  }

  lifecycle {
    ignore_changes = [
      annotations,
      client,
      client_version,
      labels,
      template[0].annotations,
      template[0].labels,
      template[0].template[0].containers[0].image,
    ]

    precondition {
      condition     = var.services_image != null
      error_message = "There is no image yet: give services_image (README.md, step 3)."
    }
  }

  depends_on = [
    google_project_iam_member.process,
    google_project_service.this,
    google_secret_manager_secret_iam_binding.readers,
    google_sql_user.process,
  ]
}

resource "google_service_account" "scheduler" {
  account_id   = "${local.prefix}-scheduler"
  display_name = "Starts the daily erasing job"
}

resource "google_cloud_run_v2_job_iam_binding" "erase_starters" {
  name     = google_cloud_run_v2_job.this["erase"].name
  location = var.region
  role     = "roles/run.invoker"
  members  = [google_service_account.scheduler.member]
}

resource "google_cloud_scheduler_job" "erase" {
  name             = "${local.prefix}-erase"
  description      = "Erases names, accounts, texts and receipts whose time is over."
  region           = var.region
  schedule         = "17 2 * * *"
  time_zone        = "Etc/UTC"
  attempt_deadline = "180s"

  retry_config {
    retry_count = 5
  }
  http_target {
    http_method = "POST"
    uri         = "https://run.googleapis.com/v2/projects/${var.project_id}/locations/${var.region}/jobs/${google_cloud_run_v2_job.this["erase"].name}:run"

    oauth_token {
      service_account_email = google_service_account.scheduler.email
    }
  }

  depends_on = [google_project_service.this["cloudscheduler.googleapis.com"]]
}
