# What one gets with nothing but a project and a decision about who may connect.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_resource "google_cloud_run_v2_service" {
    defaults = { uri = "https://cloud-sockets-abc-ew.a.run.app" }
  }
  mock_resource "google_pubsub_topic" {
    defaults = { id = "projects/my-project/topics/cloud-sockets" }
  }
}

variables {
  project_id = "my-project"
  auth       = "anonymous"
  secret_key = ""
  api_keys   = ""
}

run "closed_until_opened" {
  assert {
    condition     = length(google_cloud_run_v2_service_iam_member.invokers) == 0
    error_message = "Nobody may call the service until invokers says so."
  }
  assert {
    condition     = length(google_pubsub_topic_iam_member.publishers) == 0
    error_message = "Nobody may publish until publishers says so."
  }
  assert {
    condition     = length([for env in google_cloud_run_v2_service.this.template[0].containers[0].env : env if env.name == "CLOUD_SOCKETS_API_KEYS"]) == 0
    error_message = "Without API keys their variable must not be set: the service is closed then."
  }
  assert {
    condition     = length(google_secret_manager_secret.secret_key) + length(google_secret_manager_secret.api_keys) == 0
    error_message = "There must be no secret without a key."
  }
}

run "a_service_for_sockets" {
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].timeout == "3600s"
    error_message = "A socket must be able to last an hour."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].max_instance_request_concurrency == 1000
    error_message = "An instance should take as many sockets as Cloud Run lets it."
  }
  assert {
    condition     = one([for env in google_cloud_run_v2_service.this.template[0].containers[0].env : env.value if env.name == "CLOUD_SOCKETS_MAX_CONNECTIONS"]) == "950"
    error_message = "Sockets must leave room for probes and HTTP."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].execution_environment == "EXECUTION_ENVIRONMENT_GEN2"
    error_message = "It must run in the second generation."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].session_affinity
    error_message = "Session affinity must be on."
  }
  assert {
    condition     = alltrue([for container in google_cloud_run_v2_service.this.template[0].containers : !container.resources[0].cpu_idle])
    error_message = "Billing must be by instance: a throttled one is deaf."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].containers[0].resources[0].startup_cpu_boost
    error_message = "Startup CPU boost must be on."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].containers[0].ports[0].name == "http1"
    error_message = "HTTP/2 end to end must stay off: it has no WebSockets on Cloud Run."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].service_account == google_service_account.runtime.email
    error_message = "It must run as an account of its own."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].containers[0].startup_probe[0].http_get[0].path == "/health/ready" && google_cloud_run_v2_service.this.template[0].containers[0].liveness_probe[0].http_get[0].path == "/health/live"
    error_message = "The probes must ask the service's health paths."
  }
}

run "the_way_of_messages" {
  assert {
    condition     = google_pubsub_topic.messages.message_retention_duration == "600s"
    error_message = "The topic must retain messages for instances that start."
  }
  assert {
    condition     = tolist(google_pubsub_topic.messages.message_storage_policy[0].allowed_persistence_regions) == tolist(["europe-west1"])
    error_message = "Messages must stay in the service's region: order holds within one."
  }
  assert {
    condition     = one([for env in google_cloud_run_v2_service.this.template[0].containers[0].env : env.value if env.name == "CLOUD_SOCKETS_PUBSUB_ENDPOINT"]) == "europe-west1-pubsub.googleapis.com"
    error_message = "The endpoint must be the region's."
  }
  assert {
    condition     = one([for env in google_cloud_run_v2_service.this.template[0].containers[0].env : env.value if env.name == "CLOUD_SOCKETS_PUBSUB_TOPIC_NAME"]) == "projects/my-project/topics/cloud-sockets"
    error_message = "The service must be told its topic."
  }
  assert {
    condition     = length(google_pubsub_subscription.external) == 0 && length(google_pubsub_topic.dead_letter) == 0
    error_message = "The dead letter is off by default."
  }
}

run "least_privilege" {
  assert {
    condition     = google_project_iam_custom_role.instance.role_id == "CloudSocketsInstance"
    error_message = "A role's id may have no hyphens."
  }
  assert {
    condition     = google_pubsub_topic_iam_member.runtime_topic.topic == google_pubsub_topic.messages.id
    error_message = "Publishing must be granted on the topic, not on the project."
  }
  assert {
    condition     = alltrue([for role in [google_project_iam_member.runtime_metrics[0].role, google_project_iam_member.build_logs[0].role] : contains(["roles/monitoring.metricWriter", "roles/logging.logWriter"], role)])
    error_message = "On the project there may be nothing but metrics and logs."
  }
  assert {
    condition     = toset(keys(google_cloud_run_v2_service_iam_member.build)) == toset(["roles/run.developer", "roles/run.invoker"])
    error_message = "The build account may deploy this service and call it."
  }
}

run "what_it_tells" {
  assert {
    condition     = output.url == "https://cloud-sockets-abc-ew.a.run.app" && output.websocket_url == "wss://cloud-sockets-abc-ew.a.run.app/ws"
    error_message = "The addresses are wrong."
  }
  assert {
    condition     = strcontains(output.publish_command, "--attribute=type=announce,channel=news") && strcontains(output.deploy_command, "--config=cloudbuild.yaml")
    error_message = "The commands are wrong."
  }
  assert {
    condition     = output.load_balancer_address == null
    error_message = "There is no load balancer."
  }
}
