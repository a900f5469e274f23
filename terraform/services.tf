locals {
  services = toset(concat(
    [
      "artifactregistry.googleapis.com",
      "cloudresourcemanager.googleapis.com", # Terraform's own: the project's number, and grants on the project
      "iam.googleapis.com",
      "logging.googleapis.com",
      "monitoring.googleapis.com",
      "pubsub.googleapis.com",
      "run.googleapis.com",
      "secretmanager.googleapis.com",
    ],
    var.build.enabled ? ["cloudbuild.googleapis.com", "containeranalysis.googleapis.com", "storage.googleapis.com"] : [],
    var.domain == null ? [] : ["compute.googleapis.com"],
    local.iap ? ["iap.googleapis.com"] : [],
  ))
}

resource "google_project_service" "this" {
  for_each = local.services

  service            = each.key
  disable_on_destroy = false # others in the project may use it
}
