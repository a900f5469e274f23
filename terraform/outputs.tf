locals {
  url = var.domain == null ? google_cloud_run_v2_service.this.uri : "https://${var.domain.name}"
  # The service's own address is closed when there is a load balancer in front of it.
  smoke_url = var.domain == null ? "" : ",_SMOKE_URL=${local.url}"
}

output "url" {
  description = "Where the service is."
  value       = local.url
}

output "websocket_url" {
  description = "Where sockets are opened."
  value       = "${replace(local.url, "https://", "wss://")}${coalesce(var.settings.path, "/ws")}"
}

output "topic" {
  description = "The topic that other services publish to."
  value       = google_pubsub_topic.messages.id
}

output "image" {
  description = "The image's name in the registry, without a tag."
  value       = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}/hub"
}

output "runtime_account" {
  description = "The account that the service runs as."
  value       = google_service_account.runtime.email
}

output "load_balancer_address" {
  description = "What the domain's A record must point to; null without a domain."
  value       = one(google_compute_global_address.this[*].address)
}

output "deploy_command" {
  description = "Builds, tests and deploys what is in the current folder; null without `build`."
  value       = var.build.enabled ? "gcloud builds submit --project=${var.project_id} --config=cloudbuild.yaml --gcs-source-staging-dir=gs://${google_storage_bucket.source[0].name}/source --substitutions=_SERVICE=${var.name},_REGION=${var.region}${local.smoke_url},COMMIT_SHA=$(git rev-parse HEAD)" : null
}

output "publish_command" {
  description = "Publishes a message to all browsers that are subscribed to the channel `news`."
  value       = "gcloud pubsub topics publish ${google_pubsub_topic.messages.name} --project=${var.project_id} --message='{\"text\":\"hello\"}' --attribute=type=announce,channel=news"
}

output "open_command" {
  description = "Opens a socket from a terminal (`pip install websockets`)."
  value       = "python -m websockets ${replace(local.url, "https://", "wss://")}${coalesce(var.settings.path, "/ws")}"
}
