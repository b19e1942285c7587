# Needs roles/billing.costsManager on the billing account, which owning the project does not bring; without it,
# `monthly_budget = null`.
resource "google_billing_budget" "this" {
  provider = google.billing
  count    = var.monthly_budget == null ? 0 : 1

  billing_account = var.billing_account
  display_name    = "Partner Payments Bridge, ${var.environment}"

  budget_filter {
    projects        = ["projects/${data.google_project.this.number}"]
    calendar_period = "MONTH"
  }
  amount {
    specified_amount {
      currency_code = var.monthly_budget.currency
      units         = tostring(var.monthly_budget.units)
    }
  }
  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }
  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }
  all_updates_rule {
    monitoring_notification_channels = [google_monitoring_notification_channel.email.id]
    disable_default_iam_recipients   = false
  }

  depends_on = [google_project_service.this["billingbudgets.googleapis.com"]]
}
