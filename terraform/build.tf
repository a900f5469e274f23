# What `gcloud builds submit` needs: an account that can push the image, deploy this one service, and no more; and a
# bucket for the source.

locals {
  building = var.build.enabled ? 1 : 0
}

resource "google_service_account" "build" {
  count = local.building

  account_id   = "${var.name}-build"
  display_name = "Builds and deploys ${var.name}"

  depends_on = [google_project_service.this]
}

resource "google_artifact_registry_repository_iam_member" "build" {
  count = local.building

  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.writer" # pushes the image
  member     = google_service_account.build[0].member
}

resource "google_cloud_run_v2_service_iam_member" "build" {
  for_each = var.build.enabled ? {
    "roles/run.developer" = "deploys revisions of this service and moves its traffic"
    "roles/run.invoker"   = "opens a socket to the canary, also while the service is closed to others"
  } : {}

  name     = google_cloud_run_v2_service.this.name
  location = var.region
  role     = each.key
  member   = google_service_account.build[0].member
}

resource "google_service_account_iam_member" "build_runs_as" {
  count = local.building

  service_account_id = google_service_account.runtime.name
  role               = "roles/iam.serviceAccountUser" # a revision that it deploys runs as that account
  member             = google_service_account.build[0].member
}

resource "google_project_iam_member" "build_logs" {
  count = local.building

  project = var.project_id
  role    = "roles/logging.logWriter" # the build's own log; there is nothing narrower
  member  = google_service_account.build[0].member
}

resource "google_secret_manager_secret_iam_member" "build" {
  for_each = var.build.enabled && var.secret_key_version > 0 ? { secret_key = google_secret_manager_secret.secret_key[0].id } : {}

  secret_id = each.value
  role      = "roles/secretmanager.secretAccessor" # signs in at the canary
  member    = google_service_account.build[0].member
}

resource "google_storage_bucket" "source" {
  #checkov:skip=CKV_GCP_62:Cloud Audit Logs record who reads it; a second log of a bucket of sources tells nothing more
  #checkov:skip=CKV_GCP_78:Each submission is an object of its own, which goes after a week; there is nothing to go back to
  count = local.building

  name                        = "${var.project_id}-${var.name}-source"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true # only sources that were built already

  lifecycle_rule {
    condition {
      age = 7
    }
    action {
      type = "Delete"
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_storage_bucket_iam_member" "build" {
  count = local.building

  bucket = google_storage_bucket.source[0].name
  role   = "roles/storage.objectViewer"
  member = google_service_account.build[0].member
}
