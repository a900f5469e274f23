locals {
  # Every variable of app/settings.py, but for those that Cloud Run or the emulator set; a test holds both together.
  # What is null is not set.
  environment = {
    CLOUD_SOCKETS_ACK_MESSAGE_TYPES          = try(join(",", var.settings.ack_message_types), null)
    CLOUD_SOCKETS_ALLOWED_ORIGINS            = try(join(",", var.settings.allowed_origins), null)
    CLOUD_SOCKETS_AUTH                       = var.auth
    CLOUD_SOCKETS_BROADCAST_MESSAGE_TYPES    = try(join(",", var.settings.broadcast_message_types), null)
    CLOUD_SOCKETS_BYTE_RATE                  = var.settings.byte_rate
    CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS        = var.settings.custom_msg_handlers
    CLOUD_SOCKETS_DELIVERY_SKEW              = var.settings.delivery_skew
    CLOUD_SOCKETS_HISTORY_BYTES              = var.settings.history_bytes
    CLOUD_SOCKETS_HISTORY_SIZE               = var.settings.history_size
    CLOUD_SOCKETS_HISTORY_TTL                = var.settings.history_ttl
    CLOUD_SOCKETS_HTTP2                      = var.settings.http2
    CLOUD_SOCKETS_INCLUDE_USER_PROPS         = try(join(",", var.settings.include_user_props), null)
    CLOUD_SOCKETS_MAX_AGE                    = var.settings.max_age
    CLOUD_SOCKETS_MAX_AWAITING_BYTES         = var.settings.max_awaiting_bytes
    CLOUD_SOCKETS_MAX_BUFFERED               = var.settings.max_buffered
    CLOUD_SOCKETS_MAX_BUFFERED_TOTAL         = var.settings.max_buffered_total
    CLOUD_SOCKETS_MAX_CONNECTIONS            = var.service.concurrency - var.service.http_room
    CLOUD_SOCKETS_MAX_PAYLOAD                = var.settings.max_payload
    CLOUD_SOCKETS_MAX_SUBSCRIPTIONS          = var.settings.max_subscriptions
    CLOUD_SOCKETS_MAX_SUBSCRIPTION_BYTES     = var.settings.max_subscription_bytes
    CLOUD_SOCKETS_MAX_UNFINISHED_BYTES       = var.settings.max_unfinished_bytes
    CLOUD_SOCKETS_MESSAGE_RATE               = var.settings.message_rate
    CLOUD_SOCKETS_MSG_RESEND_DELAY           = var.settings.msg_resend_delay
    CLOUD_SOCKETS_MSG_RESEND_TIMEOUT         = var.settings.msg_resend_timeout
    CLOUD_SOCKETS_ORPHAN_GRACE               = var.settings.orphan_grace
    CLOUD_SOCKETS_PATH                       = var.settings.path
    CLOUD_SOCKETS_PER_MESSAGE_DEFLATE        = var.settings.per_message_deflate
    CLOUD_SOCKETS_PUBLISH_BACKLOG            = var.settings.publish_backlog
    CLOUD_SOCKETS_PUBSUB_ENDPOINT            = "${var.region}-pubsub.googleapis.com" # order holds within one region
    CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES       = try(join(",", var.settings.pubsub_message_types), null)
    CLOUD_SOCKETS_PUBSUB_PROVIDER            = var.settings.pubsub_provider
    CLOUD_SOCKETS_PUBSUB_SUBSCRIPTION_NAME   = var.name
    CLOUD_SOCKETS_PUBSUB_TOPIC_NAME          = google_pubsub_topic.messages.id
    CLOUD_SOCKETS_REQUEST_TIMEOUT            = var.service.timeout_seconds # one value for both
    CLOUD_SOCKETS_ROLLOVER                   = var.settings.rollover
    CLOUD_SOCKETS_SESSION_LIFETIME           = var.settings.session_lifetime
    CLOUD_SOCKETS_SESSION_PARSER             = var.settings.session_parser
    CLOUD_SOCKETS_SESSION_USER_PROPERTY_NAME = var.settings.session_user_property_name
    CLOUD_SOCKETS_SETUP_HTTP_USER            = var.settings.setup_http_user
    GOOGLE_CLOUD_PROJECT                     = var.project_id # Cloud Run does not set it
    LOG_LEVEL                                = var.settings.log_level
  }

  # While a pipeline moves traffic, and behind a load balancer, the address differs.
  ingress = var.domain == null ? "INGRESS_TRAFFIC_ALL" : "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"
}

resource "google_cloud_run_v2_service" "this" {
  name                = var.name
  location            = var.region
  description         = "Real-time WebSocket fan-out"
  ingress             = local.ingress
  deletion_protection = var.deletion_protection
  labels              = var.labels

  template {
    service_account                  = google_service_account.runtime.email
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    timeout                          = "${var.service.timeout_seconds}s" # a socket is one request
    max_instance_request_concurrency = var.service.concurrency
    session_affinity                 = true # a client that comes back finds its instance, as far as Cloud Run can
    labels                           = merge(var.labels, { managed-by = "terraform" })

    scaling {
      min_instance_count = var.service.min_instances
      max_instance_count = var.service.max_instances
    }

    containers {
      name  = local.main_container
      image = var.service.image

      ports {
        name           = "http1" # HTTP/2 end to end has no WebSockets on Cloud Run
        container_port = 8080
      }

      resources {
        limits = {
          cpu    = var.service.cpu
          memory = var.service.memory
        }
        cpu_idle          = false # billed by instance: an idle one goes on hearing its subscription
        startup_cpu_boost = true
      }

      dynamic "env" {
        for_each = { for name, value in local.environment : name => tostring(value) if value != null }
        content {
          name  = env.key
          value = env.value
        }
      }

      dynamic "env" {
        for_each = local.secret_environment
        content {
          name = env.key
          value_source {
            secret_key_ref {
              secret  = env.value.secret
              version = env.value.version
            }
          }
        }
      }

      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 60 # two minutes: the first thing an instance does is to make its subscription and hear itself
        http_get {
          path = "/health/ready"
        }
      }

      liveness_probe {
        period_seconds    = 15
        timeout_seconds   = 5
        failure_threshold = 4
        http_get {
          path = "/health/live"
        }
      }
    }

    dynamic "containers" {
      for_each = var.prometheus_sidecar ? [1] : []
      content {
        name       = "collector"
        image      = "us-docker.pkg.dev/cloud-ops-agents-artifacts/cloud-run-gmp-sidecar/cloud-run-gmp-sidecar:1.9.2@sha256:ff1fc68871118f1032a3ce17e2b0abd703292e883989d220244330ebdf522fd1"
        depends_on = [local.main_container]

        resources {
          limits = {
            cpu    = "1"
            memory = "512Mi"
          }
          cpu_idle = false
        }

        volume_mounts {
          name       = "scrape"
          mount_path = "/etc/rungmp/"
        }
      }
    }

    dynamic "volumes" {
      for_each = var.prometheus_sidecar ? [1] : []
      content {
        name = "scrape"
        secret {
          secret = google_secret_manager_secret.scrape[0].secret_id
          items {
            path    = "config.yaml"
            version = google_secret_manager_secret_version.scrape[0].version
          }
        }
      }
    }
  }

  traffic {
    type    = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
    percent = 100
  }

  lifecycle {
    # The pipeline's: which image, which revision, and how traffic moves from one to the next.
    ignore_changes = [
      client,
      client_version,
      template[0].containers[0].image,
      template[0].labels["commit"],
      template[0].revision,
      traffic,
    ]
  }

  depends_on = [
    google_project_iam_member.runtime_instance,
    google_pubsub_topic_iam_member.runtime_topic,
    google_secret_manager_secret_iam_member.runtime,
  ]
}

locals {
  main_container = "hub"
}
