output "api_hostname" {
  description = "The API Gateway's own address."
  value       = google_api_gateway_gateway.this.default_hostname
}

output "api_url" {
  description = "Where partners call."
  value       = "https://${coalesce(var.public_domain, google_api_gateway_gateway.this.default_hostname)}"
}

output "backoffice_url" {
  description = "The backoffice, behind Identity-Aware Proxy."
  value       = local.urls["backoffice"]
}

output "build_substitutions" {
  description = "What `gcloud builds submit --substitutions` needs when no trigger does it."
  value       = local.build_substitutions
}

output "certificate_record" {
  description = "DNS record that has public_domain's certificate issued; null without one."
  value       = one([for authorization in google_certificate_manager_dns_authorization.edge : one(authorization.dns_resource_record)])
}

output "edge_address" {
  description = "Where public_domain's A record points; null without one."
  value       = one([for address in google_compute_global_address.edge : address.address])
}

output "egress_addresses" {
  description = "Fixed public addresses: `webhooks` for partners' lists, `services` for SAP's. Empty in an existing network."
  value = {
    for name in keys(local.own_subnetworks) :
    name => [for key, address in google_compute_address.egress : address.address if startswith(key, "${name}-")]
  }
}

output "jwks_uri" {
  description = "Where `bridge keys publish` has to put the keys."
  value       = local.jwks_uri
}

output "partners_url" {
  description = "The partners service, behind Identity-Aware Proxy."
  value       = local.urls["partners"]
}

output "secrets" {
  description = "Secrets that want a version before the first deployment."
  value       = sort([for secret in google_secret_manager_secret.this : secret.secret_id])
}
