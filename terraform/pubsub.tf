# The topic is the API: every instance makes a subscription of its own on it when it starts, and deletes it when it ends.

resource "google_pubsub_topic" "messages" {
  #checkov:skip=CKV_GCP_83:Encrypted by Google; a key of one's own must be granted to Pub/Sub's account first, and is the owner's choice
  name                       = var.name
  message_retention_duration = "${var.topic.retention_seconds}s" # an instance that starts looks back into it

  message_storage_policy {
    # One region: Pub/Sub keeps the order of an ordering key within a region only.
    allowed_persistence_regions = length(var.topic.storage_regions) > 0 ? var.topic.storage_regions : [var.region]
  }

  depends_on = [google_project_service.this]
}

# What other services publish, kept for a reader of your own: the service drops what is malformed, with a log line that
# has the message's id. No schema: any bytes are kept.

resource "google_pubsub_subscription" "external" {
  count = var.topic.dead_letter ? 1 : 0

  name                       = "${var.name}-external"
  topic                      = google_pubsub_topic.messages.id
  filter                     = "NOT attributes:origin" # instances mark what they publish
  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = "" # never
  }
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letter[0].id
    max_delivery_attempts = 5
  }
  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }
}

resource "google_pubsub_topic" "dead_letter" {
  #checkov:skip=CKV_GCP_83:Encrypted by Google; a key of one's own must be granted to Pub/Sub's account first, and is the owner's choice
  count = var.topic.dead_letter ? 1 : 0

  name = "${var.name}-dead-letter"

  message_storage_policy {
    allowed_persistence_regions = length(var.topic.storage_regions) > 0 ? var.topic.storage_regions : [var.region]
  }

  depends_on = [google_project_service.this]
}

resource "google_pubsub_subscription" "dead_letter" {
  count = var.topic.dead_letter ? 1 : 0

  name                       = "${var.name}-dead-letter"
  topic                      = google_pubsub_topic.dead_letter[0].id
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = "" # never
  }
}

# Pub/Sub itself moves messages to the dead-letter topic, with an account of its own.

resource "google_pubsub_topic_iam_member" "dead_letter_publisher" {
  count = var.topic.dead_letter ? 1 : 0

  topic  = google_pubsub_topic.dead_letter[0].id
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "dead_letter_subscriber" {
  count = var.topic.dead_letter ? 1 : 0

  subscription = google_pubsub_subscription.external[0].id
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

locals {
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}
