resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:Encrypted by Google; images of open source need no key of one's own
  repository_id = var.name
  location      = var.region
  format        = "DOCKER"
  description   = "Images of ${var.name}"

  docker_config {
    immutable_tags = false # `latest` moves; a deployment names the digest
  }

  cleanup_policy_dry_run = false

  cleanup_policies {
    id     = "keep-the-last"
    action = "KEEP"
    most_recent_versions {
      keep_count = 20
    }
  }
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      older_than = "2592000s" # 30 days
    }
  }

  depends_on = [google_project_service.this]
}
