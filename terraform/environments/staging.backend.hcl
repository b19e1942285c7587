bucket = "example-bridge-staging-terraform"
prefix = "bridge"
