output "api_hostname" {
  description = "The API Gateway's own address."
  value       = google_api_gateway_gateway.this.default_hostname
}

output "build_substitutions" {
  description = "What `gcloud builds submit --substitutions` needs when no trigger does it."
  value       = local.build_substitutions
}

output "edge_address" {
  description = "Where public_domain's A record points; null without one."
  value       = one([for address in google_compute_global_address.edge : address.address])
}

output "egress_addresses" {
  description = "Addresses that webhooks come from, for partners' lists."
  value       = google_compute_address.egress[*].address
}

output "jwks_uri" {
  description = "Where `bridge keys publish` has to put the keys."
  value       = local.jwks_uri
}

output "secrets" {
  description = "Secrets that want a version before the first deployment."
  value       = sort([for secret in google_secret_manager_secret.this : secret.secret_id])
}
