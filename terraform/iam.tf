# The service runs as an account of its own, with exactly the permissions that its code calls for. The code lists them
# (app/fanout/pubsub/client.py), and a test holds both lists together.

resource "google_service_account" "runtime" {
  account_id   = "${var.name}-run"
  display_name = "Runs ${var.name} on Cloud Run"

  depends_on = [google_project_service.this]
}

locals {
  # On the project: a subscription does not exist before its instance makes it, so nothing narrower can carry these.
  # What keeps an instance to the service's subscriptions is that it only ever names those with its prefix and labels.
  project_permissions = [
    "pubsub.subscriptions.consume", # pulls from its own subscription, and seeks it back after an outage
    "pubsub.subscriptions.create",  # each instance makes a subscription of its own when it starts
    "pubsub.subscriptions.delete",  # and deletes it when it ends, and those of instances that died
    "pubsub.subscriptions.get",     # reads the labels before it takes one for a dead instance's
  ]
  # On this topic alone.
  topic_permissions = [
    "pubsub.topics.attachSubscription", # the other half of making a subscription
    "pubsub.topics.get",                # lists the topic's subscriptions, to find those of instances that died
    "pubsub.topics.publish",            # what clients say, and the loopback by which an instance knows that it hears
  ]
}

resource "google_project_iam_custom_role" "instance" {
  role_id     = "${local.role_prefix}Instance"
  title       = "${var.name}: an instance's own subscription"
  description = "Make, consume, look at and delete the subscriptions of instances"
  permissions = local.project_permissions

  depends_on = [google_project_service.this]
}

resource "google_project_iam_custom_role" "topic" {
  role_id     = "${local.role_prefix}Topic"
  title       = "${var.name}: its topic"
  description = "Publish to the topic, attach subscriptions to it and list them"
  permissions = local.topic_permissions

  depends_on = [google_project_service.this]
}

locals {
  role_prefix = replace(title(replace(var.name, "-", " ")), " ", "") # role ids have no hyphens
}

resource "google_project_iam_member" "runtime_instance" {
  project = var.project_id
  role    = google_project_iam_custom_role.instance.name
  member  = google_service_account.runtime.member
}

resource "google_pubsub_topic_iam_member" "runtime_topic" {
  topic  = google_pubsub_topic.messages.id
  role   = google_project_iam_custom_role.topic.name
  member = google_service_account.runtime.member
}

resource "google_project_iam_member" "runtime_metrics" {
  count = var.prometheus_sidecar ? 1 : 0

  project = var.project_id
  role    = "roles/monitoring.metricWriter" # the sidecar's
  member  = google_service_account.runtime.member
}

resource "google_pubsub_topic_iam_member" "publishers" {
  for_each = toset(var.publishers)

  topic  = google_pubsub_topic.messages.id
  role   = "roles/pubsub.publisher"
  member = each.key
}

resource "google_cloud_run_v2_service_iam_member" "invokers" {
  for_each = toset(var.invokers)

  name     = google_cloud_run_v2_service.this.name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.key
}
