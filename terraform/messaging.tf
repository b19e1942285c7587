# Topics, push subscriptions and what becomes of messages that nobody takes. Names are those of bridge/messages.py.

locals {
  # topic: where its messages are pushed
  carriers = merge(
    { for system in keys(var.sap_systems) : "payment-operations-${system}" => { service = "sap_adapter", path = "/pubsub/operations" } },
    { "payment-events" = { service = "webhooks", path = "/pubsub/events" } },
  )
  # The push request's own timeout: above the longest SAP call with its lease, or a message would run twice.
  ack_deadline_seconds    = 120
  longest_handler_seconds = var.sap_timing.connect_timeout_seconds + var.sap_timing.read_timeout_seconds + var.sap_timing.lease_margin_seconds
  # 100 is the most there is: the handler nacks only while the database is away
  delivery_attempts = 100
  minimum_backoff   = "10s"
  maximum_backoff   = "600s"
  # the longest there is: nothing expires before somebody has looked at it
  retention = "2678400s"
  # one audience for all who call us: pushes and tasks
  push_audience = "https://${var.project_id}.push.invalid"
}

resource "google_service_account" "push" {
  account_id   = "${local.prefix}-push"
  display_name = "Pub/Sub's pushes"
  description  = "Whose identity token a push carries. It has no rights: the services check that it is this account."
}

# Projects from before April 2021 need it; it is for this account only.
resource "google_service_account_iam_binding" "push" {
  service_account_id = google_service_account.push.name
  role               = "roles/iam.serviceAccountTokenCreator"
  members            = [google_project_service_identity.pubsub.member]
}

# --- carriers -------------------------------------------------------------------------------------------------

resource "google_pubsub_topic" "carrier" {
  #checkov:skip=CKV_GCP_83:messages carry ids and a number, no data of anybody
  for_each = local.carriers

  name = each.key

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }

  depends_on = [google_project_service.this["pubsub.googleapis.com"]]
}

resource "google_pubsub_topic_iam_binding" "carrier_publishers" {
  for_each = local.carriers

  topic   = google_pubsub_topic.carrier[each.key].id
  role    = "roles/pubsub.publisher"
  members = [google_service_account.process["dispatcher"].member]
}

resource "google_pubsub_subscription" "carrier" {
  for_each = local.carriers

  name                       = "${each.key}-push"
  topic                      = google_pubsub_topic.carrier[each.key].id
  ack_deadline_seconds       = local.ack_deadline_seconds
  message_retention_duration = local.retention

  push_config {
    push_endpoint = "${local.urls[each.value.service]}${each.value.path}"

    oidc_token {
      service_account_email = google_service_account.push.email
      audience              = local.push_audience
    }
  }
  retry_policy {
    minimum_backoff = local.minimum_backoff
    maximum_backoff = local.maximum_backoff
  }
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letters[each.key].id
    max_delivery_attempts = local.delivery_attempts
  }
  expiration_policy {
    ttl = ""
  }

  lifecycle {
    precondition {
      condition     = local.ack_deadline_seconds > local.longest_handler_seconds && local.ack_deadline_seconds >= 10 && local.ack_deadline_seconds <= 600
      error_message = "ack_deadline_seconds = ${local.ack_deadline_seconds} is not between the longest SAP call with its lease (${local.longest_handler_seconds} s) and 600 s."
    }
    precondition {
      condition     = local.delivery_attempts >= 5 && local.delivery_attempts <= 100
      error_message = "Pub/Sub takes 5 to 100 delivery attempts."
    }
    precondition {
      condition     = alltrue([for backoff in [local.minimum_backoff, local.maximum_backoff] : tonumber(trimsuffix(backoff, "s")) <= 600])
      error_message = "Pub/Sub's backoff is 600 s at most."
    }
  }
}

# --- dead letters ---------------------------------------------------------------------------------------------

resource "google_pubsub_topic" "dead_letters" {
  #checkov:skip=CKV_GCP_83:messages carry ids and a number, no data of anybody
  for_each = local.carriers

  name = "${each.key}-dead-letters"

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }

  depends_on = [google_project_service.this["pubsub.googleapis.com"]]
}

# Without these two a message is neither moved nor is anybody told.
resource "google_pubsub_topic_iam_binding" "dead_letters_publishers" {
  for_each = local.carriers

  topic   = google_pubsub_topic.dead_letters[each.key].id
  role    = "roles/pubsub.publisher"
  members = [google_project_service_identity.pubsub.member]
}

resource "google_pubsub_subscription_iam_binding" "carrier_subscribers" {
  for_each = local.carriers

  subscription = google_pubsub_subscription.carrier[each.key].id
  role         = "roles/pubsub.subscriber"
  members      = [google_project_service_identity.pubsub.member]
}

# Nothing comes after it: what the service cannot record now is pushed again.
resource "google_pubsub_subscription" "dead_letters" {
  for_each = local.carriers

  name                       = "${each.key}-dead-letters-push"
  topic                      = google_pubsub_topic.dead_letters[each.key].id
  ack_deadline_seconds       = local.ack_deadline_seconds
  message_retention_duration = local.retention

  push_config {
    push_endpoint = "${local.urls["dead_letters"]}/pubsub/dead-letters"

    oidc_token {
      service_account_email = google_service_account.push.email
      audience              = local.push_audience
    }
  }
  retry_policy {
    minimum_backoff = local.minimum_backoff
    maximum_backoff = local.maximum_backoff
  }
  expiration_policy {
    ttl = ""
  }
}
