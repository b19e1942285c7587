output "name" {
  description = "Name of the service."
  value       = google_cloud_run_v2_service.this.name
}

output "uri" {
  description = "Address that Cloud Run gave it."
  value       = google_cloud_run_v2_service.this.uri
}
