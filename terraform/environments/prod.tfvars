environment     = "prod"
project_id      = "example-bridge-prod"
billing_account = "000000-000000-000000"
alert_email     = "payments-oncall@example.com"
token_issuer    = "https://api.example.com"
public_domain   = "api.example.com"

repository_url = "https://forge.example.com/payments/bridge/blob/main"

operators    = ["payments-operations@example.com"]
key_managers = ["group:payments-key-managers@example.com"]

build_repository = "projects/example-bridge-prod/locations/europe-west3/connections/forge/repositories/bridge"

sap_systems = {
  s4-main = 16
}

database = {
  availability_type    = "REGIONAL"
  backups              = 30
  disk_size_gb         = 200
  max_connections      = 800
  tier                 = "db-custom-8-32768"
  transaction_log_days = 7
}

redis = {
  node_type     = "STANDARD_SMALL"
  replica_count = 1
}

scaling = {
  gateway      = { min = 2, max = 20 }
  sap_adapter  = { min = 1, max = 6 }
  webhooks     = { min = 1, max = 6 }
  dead_letters = { min = 0, max = 2 }
  partners     = { min = 0, max = 2 }
  backoffice   = { min = 1, max = 2 }
  dispatcher   = { min = 2, max = 2 }
}

monthly_budget = {
  currency = "EUR"
  units    = 2500
}
