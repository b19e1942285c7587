environment     = "staging"
project_id      = "example-bridge-staging"
region          = "europe-west3"
billing_account = "000000-000000-000000"
alert_email     = "payments-team@example.com"
token_issuer    = "https://api.staging.example.com"

repository_url = "https://forge.example.com/payments/bridge/blob/main"

operators    = ["ada@example.com", "grace@example.com"]
key_managers = ["group:payments-key-managers@example.com"]

# the repository that Cloud Build watches, once it is connected (README.md); null builds nothing
build_repository = null
promoters        = ["serviceAccount:bridge-deployer@example-bridge-prod.iam.gserviceaccount.com"]

sap_mock = true

sap_systems = {
  s4-main = 8
  s4-asia = 4
}

database = {
  availability_type    = "ZONAL"
  backups              = 7
  disk_size_gb         = 20
  max_connections      = 300
  tier                 = "db-custom-2-7680"
  transaction_log_days = 3
}

redis = {
  node_type     = "SHARED_CORE_NANO"
  replica_count = 0
}

scaling = {
  gateway      = { min = 1, max = 4 }
  sap_adapter  = { min = 0, max = 2 }
  webhooks     = { min = 1, max = 2 }
  dead_letters = { min = 0, max = 1 }
  partners     = { min = 0, max = 1 }
  backoffice   = { min = 1, max = 1 }
  dispatcher   = { min = 1, max = 1 }
}

monthly_budget = {
  currency = "EUR"
  units    = 500
}
