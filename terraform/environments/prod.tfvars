environment     = "prod"
project_id      = "example-bridge-prod"
region          = "europe-west3"
billing_account = "000000-000000-000000"
alert_email     = "payments-oncall@example.com"
token_issuer    = "https://api.example.com"
public_domain   = "api.example.com"

repository_url = "https://forge.example.com/payments/bridge/blob/main"

operators    = ["ada@example.com", "grace@example.com"]
key_managers = ["group:payments-key-managers@example.com"]

# the repository that Cloud Build watches, once it is connected (README.md); null builds nothing
build_repository = null
promote_from     = "europe-west3-docker.pkg.dev/example-bridge-staging/bridge"

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
  # the year-end close
  deny_maintenance = { start_date = "12-15", end_date = "01-10" }
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
