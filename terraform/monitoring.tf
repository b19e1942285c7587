resource "google_monitoring_notification_channel" "email" {
  display_name = "Partner Payments Bridge, on call"
  type         = "email"
  labels       = { email_address = var.alert_email }

  depends_on = [google_project_service.this["monitoring.googleapis.com"]]
}
