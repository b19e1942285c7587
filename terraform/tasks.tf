# Cloud Tasks only keeps the time: which delivery is due, and how often it has been tried, stands in the database.

resource "google_service_account" "tasks" {
  account_id   = "${local.prefix}-tasks"
  display_name = "Cloud Tasks' calls"
  description  = "Whose identity token a task carries. It has no rights: the webhooks service checks that it is this account."
}

# who makes a task in an account's name has to be allowed to act as it
resource "google_service_account_iam_binding" "tasks" {
  service_account_id = google_service_account.tasks.name
  role               = "roles/iam.serviceAccountUser"
  members            = [google_service_account.process["webhooks"].member]
}

resource "google_cloud_tasks_queue" "webhook_deliveries" {
  name     = "webhook-deliveries"
  location = var.region

  rate_limits {
    max_dispatches_per_second = local.dispatches_per_second
    max_concurrent_dispatches = local.concurrent_dispatches
  }
  # A task fails only when the service is away; the sweeper makes a new one of what was given up here.
  retry_config {
    max_attempts       = 10
    min_backoff        = "1s"
    max_backoff        = "60s"
    max_doublings      = 5
    max_retry_duration = "0s"
  }
  stackdriver_logging_config {
    sampling_ratio = 0.1
  }

  lifecycle {
    precondition {
      condition     = local.dispatches_per_second <= 500 && local.concurrent_dispatches <= 5000
      error_message = "A queue takes 500 dispatches per second and 5000 at once, at most."
    }
  }

  depends_on = [google_project_service.this["cloudtasks.googleapis.com"]]
}

resource "google_cloud_tasks_queue_iam_binding" "webhook_deliveries" {
  name     = google_cloud_tasks_queue.webhook_deliveries.name
  location = var.region
  role     = "roles/cloudtasks.enqueuer"
  members  = [google_service_account.process["webhooks"].member]
}

locals {
  dispatches_per_second = 500
  # each waits for a partner up to 15 s: fewer than the instances have threads, so that pushes find one free
  concurrent_dispatches = min(5000, floor(local.services.webhooks.threads * 3 / 4) * var.scaling["webhooks"].max)
}
