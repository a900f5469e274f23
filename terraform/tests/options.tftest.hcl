# Every optional part, on and off.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_resource "google_cloud_run_v2_service" {
    defaults = { uri = "https://cloud-sockets-abc-ew.a.run.app" }
  }
}

variables {
  project_id = "my-project"
  auth       = "anonymous"
  secret_key = ""
  api_keys   = ""
}

run "open_to_browsers_and_publishers" {
  variables {
    invokers   = ["allUsers"]
    publishers = ["serviceAccount:orders@other.iam.gserviceaccount.com"]
  }
  assert {
    condition     = google_cloud_run_v2_service_iam_member.invokers["allUsers"].role == "roles/run.invoker"
    error_message = "allUsers must be let in."
  }
  assert {
    condition     = google_pubsub_topic_iam_member.publishers["serviceAccount:orders@other.iam.gserviceaccount.com"].role == "roles/pubsub.publisher"
    error_message = "The other service must be able to publish."
  }
}

run "keys_come_from_secret_manager" {
  variables {
    auth               = "session"
    secret_key         = "a-secret-key-of-some-length"
    secret_key_version = 1
    api_keys           = "an-api-key-of-some-length,another-api-key"
    api_keys_version   = 3
  }
  assert {
    condition     = toset([for env in google_cloud_run_v2_service.this.template[0].containers[0].env : env.name if length(env.value_source) > 0]) == toset(["SECRET_KEY", "CLOUD_SOCKETS_API_KEYS"])
    error_message = "Both keys must come from Secret Manager."
  }
  assert {
    condition     = tonumber(google_secret_manager_secret_version.api_keys[0].secret_data_wo_version) == 3
    error_message = "A new version must be written when it is raised."
  }
  assert {
    condition     = google_secret_manager_secret_version.api_keys[0].secret_data == null && google_secret_manager_secret_version.secret_key[0].secret_data == null
    error_message = "No key may be in the state."
  }
  assert {
    condition     = toset(keys(google_secret_manager_secret_iam_member.runtime)) == toset(["secret_key", "api_keys", "scrape"])
    error_message = "The service must be able to read its secrets."
  }
  assert {
    condition     = toset(keys(google_secret_manager_secret_iam_member.build)) == toset(["secret_key"])
    error_message = "The build signs in at the canary, and reads nothing else."
  }
}

run "settings_become_variables" {
  variables {
    settings = {
      ack_message_types    = ["announce", "order"]
      allowed_origins      = ["https://app.example.com"]
      pubsub_message_types = []
      per_message_deflate  = false
      max_payload          = 1000
      path                 = "/live"
      log_level            = "DEBUG"
    }
  }
  assert {
    condition = {
      for env in google_cloud_run_v2_service.this.template[0].containers[0].env : env.name => env.value
      if contains(["CLOUD_SOCKETS_ACK_MESSAGE_TYPES", "CLOUD_SOCKETS_ALLOWED_ORIGINS", "CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES", "CLOUD_SOCKETS_PER_MESSAGE_DEFLATE", "CLOUD_SOCKETS_MAX_PAYLOAD", "CLOUD_SOCKETS_PATH", "LOG_LEVEL"], env.name)
      } == {
      CLOUD_SOCKETS_ACK_MESSAGE_TYPES    = "announce,order"
      CLOUD_SOCKETS_ALLOWED_ORIGINS      = "https://app.example.com"
      CLOUD_SOCKETS_MAX_PAYLOAD          = "1000"
      CLOUD_SOCKETS_PATH                 = "/live"
      CLOUD_SOCKETS_PER_MESSAGE_DEFLATE  = "false"
      CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES = ""
      LOG_LEVEL                          = "DEBUG"
    }
    error_message = "The settings must reach the service as they are."
  }
  assert {
    condition     = !contains([for env in google_cloud_run_v2_service.this.template[0].containers[0].env : env.name], "CLOUD_SOCKETS_MAX_BUFFERED")
    error_message = "What is not given must not be set."
  }
  assert {
    condition     = output.websocket_url == "wss://cloud-sockets-abc-ew.a.run.app/live"
    error_message = "The socket's address must have the path."
  }
}

run "dead_letter" {
  variables {
    topic = { dead_letter = true, retention_seconds = 3600, storage_regions = ["europe-west1", "europe-west4"] }
  }
  assert {
    condition     = google_pubsub_subscription.external[0].filter == "NOT attributes:origin"
    error_message = "What instances publish must not be kept."
  }
  assert {
    condition     = google_pubsub_subscription.external[0].dead_letter_policy[0].max_delivery_attempts == 5
    error_message = "What its reader refuses must go to the dead-letter topic."
  }
  assert {
    condition     = google_pubsub_topic_iam_member.dead_letter_publisher[0].member == "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
    error_message = "Pub/Sub must be able to publish to the dead-letter topic."
  }
  assert {
    condition     = google_pubsub_topic.messages.message_retention_duration == "3600s" && length(google_pubsub_topic.messages.message_storage_policy[0].allowed_persistence_regions) == 2
    error_message = "Retention and regions must be as asked."
  }
}

run "domain" {
  variables {
    domain = { name = "sockets.example.com", rate_limit = 20, rate_limit_seconds = 30 }
  }
  assert {
    condition     = google_cloud_run_v2_service.this.ingress == "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"
    error_message = "Nobody may walk around the load balancer."
  }
  assert {
    condition     = toset(keys(google_compute_backend_service.this)) == toset(["live", "canary"]) && google_compute_region_network_endpoint_group.this["canary"].cloud_run[0].tag == "canary"
    error_message = "The canary must have a way of its own."
  }
  assert {
    condition     = one([for rule in google_compute_security_policy.this[0].rule : rule.rate_limit_options[0].rate_limit_threshold[0].count if rule.action == "throttle"]) == 20
    error_message = "The rate limit must be as asked."
  }
  assert {
    condition     = output.websocket_url == "wss://sockets.example.com/ws"
    error_message = "The address must be the domain's."
  }
  assert {
    condition     = google_monitoring_uptime_check_config.ready[0].monitored_resource[0].labels.host == "sockets.example.com"
    error_message = "The uptime check must ask the domain."
  }
  assert {
    condition     = length(google_iap_web_backend_service_iam_member.members) == 0
    error_message = "Identity-Aware Proxy is off unless asked for."
  }
}

run "identity_aware_proxy" {
  variables {
    domain = { name = "sockets.example.com", iap = true, iap_members = ["group:staff@example.com"] }
  }
  assert {
    condition     = google_compute_backend_service.this["live"].iap[0].enabled
    error_message = "IAP must be on."
  }
  assert {
    condition     = google_cloud_run_v2_service_iam_member.iap[0].member == "serviceAccount:service-123456789012@gcp-sa-iap.iam.gserviceaccount.com"
    error_message = "IAP must be able to call the service."
  }
  assert {
    condition     = length(google_monitoring_uptime_check_config.ready) == 0
    error_message = "An uptime check cannot pass IAP."
  }
}

run "without_the_collector" {
  variables {
    prometheus_sidecar = false
  }
  assert {
    condition     = length(google_cloud_run_v2_service.this.template[0].containers) == 1 && length(google_cloud_run_v2_service.this.template[0].volumes) == 0
    error_message = "There must be one container."
  }
  assert {
    condition     = length(google_monitoring_alert_policy.metrics) == 0 && length(google_monitoring_alert_policy.errors_5xx) == 1
    error_message = "Alerts on metrics that nobody collects must not be there, all others must."
  }
  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.this[0].dashboard_json).mosaicLayout.tiles) == 4
    error_message = "The dashboard must show Cloud Run's own metrics only."
  }
}

run "with_the_collector" {
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].containers[1].depends_on[0] == google_cloud_run_v2_service.this.template[0].containers[0].name
    error_message = "The collector must start after the hub."
  }
  assert {
    condition     = yamldecode(google_secret_manager_secret_version.scrape[0].secret_data).spec.endpoints[0] == { port = 8080, path = "/metrics", interval = "30s" }
    error_message = "It must collect /metrics."
  }
  assert {
    condition     = length(google_monitoring_alert_policy.metrics) == 7
    error_message = "Every alert must be there."
  }
  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.this[0].dashboard_json).mosaicLayout.tiles) == 16
    error_message = "Every chart must be there."
  }
}

run "without_monitoring" {
  variables {
    monitoring = { enabled = false }
  }
  assert {
    condition     = length(google_monitoring_dashboard.this) + length(google_monitoring_alert_policy.metrics) + length(google_monitoring_alert_policy.uptime) + length(google_logging_metric.this) + length(google_monitoring_uptime_check_config.ready) == 0
    error_message = "Nothing may be watched."
  }
}

run "without_the_uptime_check" {
  variables {
    monitoring = { uptime_check = false, notification_channels = ["projects/my-project/notificationChannels/1"] }
  }
  assert {
    condition     = length(google_monitoring_uptime_check_config.ready) + length(google_monitoring_alert_policy.uptime) + length(google_cloud_run_v2_service_iam_member.uptime) == 0
    error_message = "Nobody may ask from outside."
  }
  assert {
    condition     = google_monitoring_alert_policy.critical_log[0].notification_channels == tolist(["projects/my-project/notificationChannels/1"])
    error_message = "Alerts must go where they were asked to go."
  }
}

run "without_a_domain" {
  assert {
    condition     = length(google_compute_global_address.this) + length(google_compute_backend_service.this) + length(google_compute_security_policy.this) + length(google_compute_global_forwarding_rule.https) + length(google_compute_global_forwarding_rule.http) == 0
    error_message = "There must be no load balancer."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.ingress == "INGRESS_TRAFFIC_ALL" && !contains(keys(google_project_service.this), "compute.googleapis.com")
    error_message = "The service must take requests itself."
  }
}

run "labels_and_protection" {
  variables {
    labels              = { team = "sockets" }
    deletion_protection = false
  }
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].labels == tomap({ managed-by = "terraform", team = "sockets" }) && google_cloud_run_v2_service.this.labels == tomap({ team = "sockets" })
    error_message = "The service and its revisions must have the labels."
  }
  assert {
    condition     = !google_cloud_run_v2_service.this.deletion_protection
    error_message = "It must be possible to delete the service when that is asked for."
  }
}

run "without_build" {
  variables {
    build = { enabled = false }
  }
  assert {
    condition     = length(google_service_account.build) + length(google_storage_bucket.source) + length(google_cloud_run_v2_service_iam_member.build) == 0 && output.deploy_command == null
    error_message = "There must be no build account."
  }
  assert {
    condition     = !contains(keys(google_project_service.this), "cloudbuild.googleapis.com")
    error_message = "Cloud Build must not be enabled."
  }
}

run "a_plan_is_enough" {
  command = plan
  assert {
    condition     = startswith(google_cloud_run_v2_service.this.template[0].containers[0].image, "us-docker.pkg.dev/cloudrun/container/hello:latest@sha256:")
    error_message = "Before the first build there must be a stand-in to run."
  }
}
