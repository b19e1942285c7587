# Layers of earlier builds. Each build moves the same tag, which the images' repository refuses.
resource "google_artifact_registry_repository" "cache" {
  #checkov:skip=CKV_GCP_84:layers hold our code and public packages, no data and no secret
  repository_id = "${local.prefix}-cache"
  location      = var.region
  format        = "DOCKER"
  description   = "Layers of earlier builds."

  vulnerability_scanning_config {
    enablement_config = "DISABLED"
  }
  cleanup_policies {
    id     = "delete-the-old"
    action = "DELETE"
    condition {
      older_than = "1209600s"
    }
  }

  depends_on = [google_project_service.this["artifactregistry.googleapis.com"]]
}

# Docker Hub by way of our own registry: it asks there once for each image, where every build would count against the
# limit on the addresses that all of Cloud Build shares.
resource "google_artifact_registry_repository" "docker_hub" {
  #checkov:skip=CKV_GCP_84:copies of public images, no data and no secret
  repository_id = "docker-hub"
  location      = var.region
  format        = "DOCKER"
  mode          = "REMOTE_REPOSITORY"
  description   = "Copies of Docker Hub's images that builds use."

  remote_repository_config {
    docker_repository {
      public_repository = "DOCKER_HUB"
    }
  }
  # builds name each image by its digest, and what is built from one is scanned
  vulnerability_scanning_config {
    enablement_config = "DISABLED"
  }
  cleanup_policies {
    id     = "delete-the-old"
    action = "DELETE"
    condition {
      older_than = "7776000s"
    }
  }

  depends_on = [google_project_service.this["artifactregistry.googleapis.com"]]
}

resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:images hold our code and public packages, no data and no secret
  repository_id = local.prefix
  location      = var.region
  format        = "DOCKER"
  description   = "The services' images, deployed by digest."

  docker_config {
    immutable_tags = true
  }
  vulnerability_scanning_config {
    enablement_config = "INHERITED"
  }
  cleanup_policies {
    id     = "keep-the-latest"
    action = "KEEP"
    # an image is an index, a manifest and its attestations: about twenty deployments
    most_recent_versions {
      keep_count = 60
    }
  }
  cleanup_policies {
    id     = "delete-the-old"
    action = "DELETE"
    condition {
      older_than = "7776000s"
    }
  }

  depends_on = [google_project_service.this["artifactregistry.googleapis.com"]]
}
