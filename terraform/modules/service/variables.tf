variable "callers" {
  description = "IAM members that may call; empty where the service verifies its callers' tokens itself."
  type        = list(string)

  validation {
    condition     = length(setintersection(var.callers, ["allUsers", "allAuthenticatedUsers"])) == 0
    error_message = "No service is public: allUsers and allAuthenticatedUsers are no callers."
  }
}

variable "cpu" {
  description = "CPUs of an instance."
  type        = string
}

variable "cpu_idle" {
  description = "Whether the CPU is throttled between requests; false for what works between them."
  type        = bool
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete the service."
  type        = bool
}

variable "environment" {
  description = "Variables in clear; a secret comes by `secret_files` or `secret_variables`."
  type        = map(string)

  validation {
    condition     = length(setintersection(keys(var.environment), ["PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"])) == 0
    error_message = "Cloud Run sets PORT and K_* itself, and refuses a service that does."
  }
}

variable "iap_enabled" {
  description = "Whether Identity-Aware Proxy stands before it; its agent is then the caller."
  type        = bool
  default     = false
}

variable "image" {
  description = "The image by digest, when the service is created; a deployment replaces it."
  type        = string

  validation {
    condition     = var.image != null
    error_message = "There is no image yet: give services_image, and sap_mock_image where the mock runs (README.md, step 3)."
  }
}

variable "ingress" {
  description = "Where requests may come from, as Cloud Run names it."
  type        = string
}

variable "live_path" {
  description = "Path that answers 200 while the process lives."
  type        = string
  default     = "/livez"
}

variable "location" {
  description = "Region."
  type        = string
}

variable "memory" {
  description = "Memory of an instance, with its unit."
  type        = string
}

variable "module" {
  description = "The Python module that the image starts."
  type        = string
}

variable "name" {
  description = "Name of the service."
  type        = string
}

variable "network" {
  description = "Direct VPC egress: the subnetwork, what goes through it, and tags that firewall rules go by."
  type        = object({ network = string, subnetwork = string, egress = string, tags = list(string) })
}

variable "ready_path" {
  description = "Path that answers 200 once the process has reached all it needs."
  type        = string
  default     = "/readyz"
}

variable "scaling" {
  description = "Instances, at least and at most."
  type        = object({ min = number, max = number })
}

variable "secret_files" {
  description = "Secrets mounted as files: name to the secret's id, the file's name, and the variable that tells the file or its folder."
  type        = map(object({ id = string, file = string, variable = string, is_folder = bool }))
  default     = {}
}

variable "secret_variables" {
  description = "Secrets given as variables: variable to the secret's id."
  type        = map(string)
  default     = {}
}

variable "service_account" {
  description = "E-mail of the service's own account."
  type        = string
}

variable "threads" {
  description = "Requests that an instance serves at once."
  type        = number
}

variable "timeout_seconds" {
  description = "Longest request."
  type        = number
}
