variable "alert_email" {
  description = "Who is told when a promise to partners is at risk."
  type        = string

  validation {
    condition     = can(regex("^[^@ ]+@[^@ ]+$", var.alert_email))
    error_message = "alert_email is not an e-mail address."
  }
}

variable "api_gateway_region" {
  description = "Where the API Gateway runs; it is not offered in every region, europe-west3 among them."
  type        = string
  default     = "europe-west1"

  validation {
    condition = contains([
      "asia-northeast1", "australia-southeast1", "europe-west1", "europe-west2", "us-central1", "us-east1",
      "us-east4", "us-west2", "us-west3", "us-west4",
    ], var.api_gateway_region)
    error_message = "API Gateway is not offered in this region (cloud.google.com/api-gateway/docs/deployment-model)."
  }
}

variable "billing_account" {
  description = "Billing account of the budget, XXXXXX-XXXXXX-XXXXXX."
  type        = string

  validation {
    condition     = can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.billing_account))
    error_message = "billing_account is not of the form XXXXXX-XXXXXX-XXXXXX."
  }
}

variable "build_repository" {
  description = "Cloud Build repository (2nd generation) that deploys on a push to main: projects/…/repositories/…; null for none."
  type        = string
  default     = null
}

variable "database" {
  description = "Cloud SQL: machine, disk (GB), high availability, days of backups and of point-in-time recovery, connections."
  type = object({
    availability_type        = string
    backups                  = number
    disk_size_gb             = number
    max_connections          = number
    tier                     = string
    transaction_log_days     = number
    version                  = optional(string, "POSTGRES_17")
    maintenance_window_day   = optional(number, 7)
    maintenance_window_hour  = optional(number, 3)
    maintenance_update_track = optional(string, "stable")
    # dates as MM-DD, for each year, or YYYY-MM-DD
    deny_maintenance = optional(object({ start_date = string, end_date = string }))
    # a cross-region replica; docs/cost.md has its price
    replica_region = optional(string)
  })

  validation {
    condition     = contains(["REGIONAL", "ZONAL"], var.database.availability_type)
    error_message = "availability_type is REGIONAL (a standby in another zone) or ZONAL."
  }
  validation {
    condition     = var.environment != "prod" || var.database.availability_type == "REGIONAL"
    error_message = "production needs a standby in another zone: availability_type = \"REGIONAL\"."
  }
  validation {
    condition     = var.database.replica_region == null || var.database.replica_region != var.region
    error_message = "database: replica_region is another region than `region`."
  }
  validation {
    condition     = var.database.transaction_log_days >= 1 && var.database.transaction_log_days <= 7
    error_message = "transaction_log_days: Cloud SQL's Enterprise edition keeps 1 to 7 days."
  }
}

variable "deletion_protection" {
  description = "Whether what holds data, and the services, refuse to be deleted. False only to tear an environment down."
  type        = bool
  default     = true

  validation {
    condition     = var.deletion_protection || var.environment != "prod"
    error_message = "production keeps its deletion protection."
  }
}

variable "environment" {
  description = "staging or prod."
  type        = string

  validation {
    condition     = contains(["staging", "prod"], var.environment)
    error_message = "environment is staging or prod."
  }
}

variable "key_managers" {
  description = "IAM members (groups) that add secrets' versions, publish keys and wrap data keys; they read no secret."
  type        = list(string)

  validation {
    condition     = alltrue([for member in var.key_managers : can(regex("^(group|user|serviceAccount):", member))])
    error_message = "key_managers are IAM members: group:…, user:… or serviceAccount:…, and never everybody."
  }
}

variable "monthly_budget" {
  description = "Whole units of `currency` (the billing account's) per month; a mail at 50, 90 and 100 percent, and when 100 is forecast. Null: no budget."
  type = object({
    currency = string
    units    = number
  })
  default = null
}

variable "network" {
  description = "Ranges of the network that is made here, or a network that exists already, as in a Shared VPC (README.md)."
  type = object({
    services_range         = optional(string, "10.20.0.0/22")
    webhooks_range         = optional(string, "10.20.4.0/23")
    private_services_range = optional(string, "10.30.0.0/20")
    existing = optional(object({
      network               = string
      services_subnetwork   = string
      webhooks_subnetwork   = string
      private_services_name = optional(string)
    }))
  })
  default = {}

  validation {
    condition     = alltrue([for range in [var.network.services_range, var.network.webhooks_range, var.network.private_services_range] : can(cidrhost(range, 0))])
    error_message = "network: ranges are written as in 10.20.0.0/22."
  }
}

variable "operator_client_id" {
  description = "OAuth client (type desktop) with which the operators' command line signs in; null lets browsers in only."
  type        = string
  default     = null
}

variable "operators" {
  description = "E-mails of the people (or service accounts) that may use the operators' services; no groups, since each change names a person."
  type        = list(string)

  validation {
    condition     = length(var.operators) > 0 && alltrue([for email in var.operators : can(regex("^[^@, ]+@[^@, ]+$", email))])
    error_message = "operators are e-mail addresses, at least one."
  }
}

variable "pager_channels" {
  description = "Notification channels that exist already and wake somebody (PagerDuty, webhook, SMS): CRITICAL alerts go there beside the mail. Made in the console, for their keys are secrets: projects/PROJECT/notificationChannels/NUMBER."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for channel in var.pager_channels : can(regex("^projects/[^/]+/notificationChannels/[0-9]+$", channel))])
    error_message = "pager_channels are names of channels: projects/PROJECT/notificationChannels/NUMBER, as `gcloud beta monitoring channels list --format='value(name)'` prints them."
  }
}

variable "private_dns" {
  description = "Domains (with a dot at the end) that name servers of SAP's network answer: domain to their addresses, reached by VPN or Interconnect."
  type        = map(list(string))
  default     = {}

  validation {
    condition     = alltrue([for domain, servers in var.private_dns : can(regex("^([a-z0-9-]+\\.)+$", domain)) && length(servers) > 0])
    error_message = "private_dns: a domain ends in a dot and has at least one name server."
  }
}

variable "project_id" {
  description = "The project; one per environment."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id is the project's id, not its name or number: 6 to 30 lower-case letters, digits and hyphens, as `gcloud projects list` prints it. An id with a domain (example.com:bridge) is not supported: accounts and images are named differently there. Use a project without one."
  }
}

variable "promote_from" {
  description = "Registry of staging, whose images this environment runs: REGION-docker.pkg.dev/PROJECT/bridge. Null where images are built."
  type        = string
  default     = null

  validation {
    condition     = var.environment != "prod" || var.build_repository == null || var.promote_from != null
    error_message = "production runs what staging has run: promote_from names staging's registry."
  }
}

variable "promoters" {
  description = "IAM members that may copy images from here: production's deployer."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.promoters : startswith(member, "serviceAccount:")])
    error_message = "promoters are service accounts: serviceAccount:bridge-deployer@PROJECT.iam.gserviceaccount.com."
  }
}

variable "public_domain" {
  description = "Domain of the load balancer with Cloud Armor before the API Gateway; null for the API Gateway's own address."
  type        = string
  default     = null

  validation {
    condition     = var.public_domain == null || can(regex("^([a-z0-9-]+\\.)+[a-z]+$", var.public_domain))
    error_message = "public_domain is a host name, as in api.example.com: no https:// before it, no slash after it."
  }
}

variable "recovery_region" {
  description = "Where secrets are kept a second time, and the bridge would be built anew if `region` were lost; in the EU."
  type        = string
  default     = "europe-west4"

  validation {
    condition     = var.recovery_region != var.region && contains(local.european_regions, var.recovery_region)
    error_message = "recovery_region is another region than `region`, one of ${join(", ", local.european_regions)}."
  }
}

variable "redis" {
  description = "Memorystore (Valkey) that counts requests for all instances of the gateway."
  type = object({
    node_type     = string
    replica_count = number
  })

  validation {
    condition     = var.environment != "prod" || var.redis.node_type != "SHARED_CORE_NANO"
    error_message = "Google gives no SLA for SHARED_CORE_NANO, and advises against it in production."
  }
}

variable "refund_window_days" {
  description = "How long after its acceptance a payment can be refunded: the gateway refuses, and the erasing job waits."
  type        = number
  default     = 400

  validation {
    condition     = var.refund_window_days >= 1 && var.refund_window_days <= 3650
    error_message = "refund_window_days is 1 to 3650."
  }
}

variable "region" {
  description = "Where everything but the API Gateway runs; in Europe, as backups and keys are."
  type        = string
  default     = "europe-west3"

  validation {
    condition     = contains(local.european_regions, var.region)
    error_message = "region is none of Cloud Run's in Europe (cloud.google.com/run/docs/locations): ${join(", ", local.european_regions)}. Backups and keys are kept in Europe; for another continent change their locations too (database.tf, kms.tf)."
  }
}

variable "repository_url" {
  description = "Where the repository's files can be read, without a slash at its end: alerts link their runbooks there."
  type        = string

  validation {
    condition     = can(regex("^https://[^ ]+[^/ ]$", var.repository_url))
    error_message = "repository_url begins with https:// and has no slash at its end: https://forge.example.com/payments/bridge/blob/main."
  }
}

variable "sap_mock" {
  description = "Whether the SAP mock runs, for environments without a SAP."
  type        = bool
  default     = false

  validation {
    condition     = !(var.sap_mock && var.environment == "prod")
    error_message = "the SAP mock never runs in production."
  }
}

variable "sap_mock_image" {
  description = "Its image, by digest; null where it does not run. Cloud Build replaces it later."
  type        = string
  default     = null

  validation {
    condition     = var.sap_mock_image == null || can(regex("@sha256:[0-9a-f]{64}$", var.sap_mock_image))
    error_message = "sap_mock_image ends in @sha256:<64 hexadecimal digits>: a tag can be moved."
  }
}

variable "sap_systems" {
  description = "SAP systems and how many calls each takes at once: one lane, one topic, one subscription per system."
  type        = map(number)

  validation {
    condition     = length(var.sap_systems) > 0 && alltrue([for name in keys(var.sap_systems) : can(regex("^[a-z][a-z0-9-]{0,39}$", name)) && name != "events"])
    error_message = "SAP systems are named as in [a-z][a-z0-9-]{0,39}, and not \"events\"."
  }
  validation {
    condition     = alltrue([for calls in values(var.sap_systems) : calls >= 1 && calls <= 256])
    error_message = "a SAP system takes 1 to 256 calls at once."
  }
}

variable "sap_timing" {
  description = "Seconds: connecting to SAP, waiting for its answer, the lease beyond that, how long SAP may still book a lost call, how late its read side is."
  type = object({
    connect_timeout_seconds = optional(number, 5)
    read_timeout_seconds    = optional(number, 60)
    lease_margin_seconds    = optional(number, 10)
    settling_seconds        = optional(number, 660)
    read_lag_seconds        = optional(number, 60)
  })
  default = {}

  validation {
    condition     = var.sap_timing.connect_timeout_seconds + var.sap_timing.read_timeout_seconds + var.sap_timing.lease_margin_seconds < 600
    error_message = "a SAP call and its lease must end before Pub/Sub's longest ack deadline, 600 s."
  }
}

variable "scaling" {
  description = "Instances of each service, at least and at most."
  type        = map(object({ min = number, max = number }))

  validation {
    condition     = alltrue([for bounds in values(var.scaling) : bounds.min >= 0 && bounds.max >= max(1, bounds.min)])
    error_message = "scaling: min is 0 or more, max at least 1 and at least min."
  }
  validation {
    condition     = toset(keys(var.scaling)) == toset(concat(keys(local.services), ["dispatcher"]))
    error_message = "scaling names each process, and nothing else: ${join(", ", concat(keys(local.services), ["dispatcher"]))}."
  }
  validation {
    condition     = try(var.scaling["backoffice"].min, 1) >= 1
    error_message = "scaling: one backoffice at least is always there. It tells how everything stands, and alerts hang on it."
  }
}

variable "services_image" {
  description = "The services' image, by digest, for what does not exist yet. A deployment replaces it. Null while there is none (README.md, step 2)."
  type        = string
  default     = null

  validation {
    condition     = var.services_image == null || can(regex("@sha256:[0-9a-f]{64}$", var.services_image))
    error_message = "services_image ends in @sha256:<64 hexadecimal digits>: a tag can be moved."
  }
}

variable "token_issuer" {
  description = "Issuer of access tokens and receipts: the API's public address, without a slash at its end."
  type        = string

  validation {
    condition     = can(regex("^https://[a-z0-9.-]+$", var.token_issuer))
    error_message = "token_issuer is https://<host>, without a path or a slash at its end."
  }
  validation {
    condition     = var.public_domain == null || var.token_issuer == "https://${coalesce(var.public_domain, "-")}"
    error_message = "with a public_domain, the token_issuer is that domain."
  }
}

locals {
  # cloud.google.com/run/docs/locations
  european_regions = [
    "europe-central2", "europe-north1", "europe-north2", "europe-southwest1", "europe-west1", "europe-west10", "europe-west12",
    "europe-west2", "europe-west3", "europe-west4", "europe-west6", "europe-west8", "europe-west9",
  ]
}
