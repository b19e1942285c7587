# Sequences, relays and watches. It polls and speaks no HTTP: a worker pool, which has no endpoint. What Pub/Sub pushes
# of dead letters therefore goes to a service of its own (services.tf).
resource "google_cloud_run_v2_worker_pool" "dispatcher" {
  name                = local.names["dispatcher"]
  location            = var.region
  deletion_protection = var.deletion_protection

  scaling {
    scaling_mode          = "MANUAL"
    manual_instance_count = var.scaling["dispatcher"].max
  }

  template {
    service_account = google_service_account.process["dispatcher"].email

    vpc_access {
      egress = "PRIVATE_RANGES_ONLY"
      network_interfaces {
        subnetwork = local.subnetwork_ids["services"]
      }
    }

    containers {
      image = var.services_image
      args  = [local.dispatcher.module]

      resources {
        limits = { cpu = "1", memory = "512Mi" }
      }

      # It fails once a thread hangs in one round for five minutes, or has died: what only a restart mends. A database
      # that is away is no reason; rounds fail then, and end (dispatcher/liveness.py).
      startup_probe {
        period_seconds    = 3
        timeout_seconds   = 3
        failure_threshold = 80
        http_get {
          path = "/livez"
          port = local.dispatcher.liveness_port
        }
      }
      liveness_probe {
        period_seconds    = 30
        timeout_seconds   = 5
        failure_threshold = 3
        http_get {
          path = "/livez"
          port = local.dispatcher.liveness_port
        }
      }

      dynamic "env" {
        for_each = merge(local.dispatcher_environment, local.database_environment["dispatcher"])
        content {
          name  = env.key
          value = env.value
        }
      }
    }
  }

  lifecycle {
    ignore_changes = [
      client,
      client_version,
      instance_splits,
      template[0].annotations,
      template[0].containers[0].image,
      template[0].labels,
    ]

    precondition {
      condition     = var.services_image != null
      error_message = "There is no image yet: give services_image (README.md, step 3)."
    }
    precondition {
      condition     = var.scaling["dispatcher"].min == var.scaling["dispatcher"].max
      error_message = "The dispatcher's worker pool is scaled by hand: min and max are the same number."
    }
  }

  depends_on = [
    google_project_iam_member.firestore,
    google_project_iam_member.process,
    google_project_service.this,
    google_pubsub_topic_iam_binding.carrier_publishers,
    google_sql_user.process,
  ]
}

locals {
  dispatcher = {
    module      = "dispatcher"
    connections = 10
    # a worker pool has no address: only the probe reaches it
    liveness_port = 8080
  }
  dispatcher_environment = merge(local.project_environment, local.telemetry_environment, local.settling_environment, {
    DATABASE_CONNECTIONS           = "10"
    DELAYED_AFTER_SECONDS          = "900"
    LIVENESS_PORT                  = tostring(local.dispatcher.liveness_port)
    FIRESTORE_DATABASE             = google_firestore_database.marks.name
    MARK_INTERVAL_SECONDS          = "2"
    MARK_PATIENCE_SECONDS          = "60"
    MAX_BATCH_MESSAGES             = "1000"
    POLL_SECONDS                   = "1"
    PUBLISH_TIMEOUT_SECONDS        = "5"
    SAP_FAILING_OPERATIONS_TO_OPEN = "3"
    SAP_LATENCY_TARGET_SECONDS     = "5"
    SAP_MAX_PROBE_INTERVAL_SECONDS = "1.5"
    SAP_PROBE_INTERVAL_SECONDS     = "1"
    WATCHDOG_FIRST_SECONDS         = "60"
    WATCHDOG_INTERVAL_SECONDS      = "5"
  })
}
