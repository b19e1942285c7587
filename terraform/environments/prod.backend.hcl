bucket = "example-bridge-prod-terraform"
prefix = "bridge"
