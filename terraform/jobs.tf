# What runs and ends: migrations at each deployment, erasing once a day.

locals {
  jobs = {
    migrate = {
      module          = "bridge.storage.migrate"
      timeout_seconds = 3600
      # twice would do no harm, but who deploys wants to see the first failure
      retries = 0
    }
    erase = {
      module          = "bridge.storage.erase"
      timeout_seconds = 3600
      retries         = 3
    }
  }
  job_environments = {
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
    { dispatcher = "dispatcher", erase = "retention" },
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
        egress = "PRIVATE_RANGES_ONLY"
        network_interfaces {
          subnetwork = google_compute_subnetwork.services.id
        }
      }

      containers {
        image = var.services_image
        args  = [each.value.module]

        resources {
          limits = { cpu = "1", memory = "512Mi" }
        }

        dynamic "env" {
          for_each = merge(local.job_environments[each.key], local.database_environment[each.key])
          content {
            name  = env.key
            value = env.value
          }
        }
      }
    }
  }

  lifecycle {
    ignore_changes = [client, client_version, template[0].template[0].containers[0].image]
  }

  depends_on = [
    google_project_iam_member.process,
    google_project_service.this,
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
