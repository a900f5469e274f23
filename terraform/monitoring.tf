# What is watched. Names of metrics are those of app/metrics.py as Google's collector writes them; a test holds both
# together. Without the collector there are Cloud Run's own metrics, the log and the uptime check.

locals {
  monitored  = var.monitoring.enabled ? 1 : 0
  collected  = var.monitoring.enabled && var.prometheus_sidecar
  target     = "cluster=\"__run__\",namespace=\"${var.name}\"" # how the collector names a Cloud Run service
  on_service = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = \"${var.name}\""
  in_log     = "resource.type=\"cloud_run_revision\" resource.labels.service_name=\"${var.name}\""
  host       = var.domain == null ? trimprefix(google_cloud_run_v2_service.this.uri, "https://") : var.domain.name

  # Each: the query that is true while something is wrong, for how long, and what to do.
  metric_alerts = {
    deaf = {
      title    = "an instance does not hear the topic"
      query    = "min(cloud_sockets_pubsub_hearing{${local.target}}) < 1"
      duration = "120s"
      advice   = "An instance has not heard its own messages for two minutes. /health/ready of the instance says why; docs/operations.md, \"A deaf instance\"."
    }
    gap = {
      title    = "messages may be missing on an instance"
      query    = "sum(increase(cloud_sockets_pubsub_gaps_total{${local.target}}[5m])) > 0"
      duration = "0s"
      advice   = "An instance lost its subscription for longer than the topic retains messages. Raise topic.retention_seconds; the log line \"a gap\" says how long it was."
    }
    backlog = {
      title    = "messages wait to be published"
      query    = "max(cloud_sockets_publish_backlog_bytes{${local.target}}) > ${floor(0.75 * coalesce(var.settings.publish_backlog, 16777216))}"
      duration = "60s"
      advice   = "Three quarters of CLOUD_SOCKETS_PUBLISH_BACKLOG are in use: soon senders get temporary errors. Is Pub/Sub slow or out of quota? docs/operations.md, \"The topic is out\"."
    }
    publish_failures = {
      title    = "publishing fails"
      query    = "sum(rate(cloud_sockets_pubsub_publish_requests_total{${local.target},result=\"failed\"}[5m])) > 0"
      duration = "120s"
      advice   = "Requests to publish fail for good, and their senders get temporary errors. docs/operations.md, \"The topic is out\"."
    }
    full = {
      title    = "clients are turned away"
      query    = "sum(rate(cloud_sockets_connections_refused_total{${local.target},reason=\"full\"}[5m])) > 0"
      duration = "120s"
      advice   = "Instances are full. Raise service.max_instances."
    }
    slow_consumers = {
      title    = "clients do not take what is sent to them"
      query    = "sum(rate(cloud_sockets_connections_closed_total{${local.target},code=\"3008\"}[5m])) > 1"
      duration = "300s"
      advice   = "More than one client a second is ended as a slow consumer (3008): too much is sent to them, or CLOUD_SOCKETS_MAX_BUFFERED is too small."
    }
    handlers = {
      title    = "custom handlers fail"
      query    = "sum(rate(cloud_sockets_handler_calls_total{${local.target},result!=\"done\"}[5m])) > 0.1"
      duration = "300s"
      advice   = "The log has each failure with its traceback."
    }
  }
}

resource "google_monitoring_alert_policy" "metrics" {
  for_each = local.collected ? local.metric_alerts : {}

  display_name          = "${var.name}: ${each.value.title}"
  combiner              = "OR"
  notification_channels = var.monitoring.notification_channels

  conditions {
    display_name = each.value.title
    condition_prometheus_query_language {
      query                     = each.value.query
      duration                  = each.value.duration
      evaluation_interval       = "30s"
      disable_metric_validation = true # the metrics come with the first instance
    }
  }

  documentation {
    content   = each.value.advice
    mime_type = "text/markdown"
  }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "errors_5xx" {
  count = local.monitored

  display_name          = "${var.name}: requests end in server errors"
  combiner              = "OR"
  notification_channels = var.monitoring.notification_channels

  conditions {
    display_name = "more than one 5xx in a second"
    condition_threshold {
      filter          = "${local.on_service} AND metric.type = \"run.googleapis.com/request_count\" AND metric.labels.response_code_class = \"5xx\""
      comparison      = "COMPARISON_GT"
      threshold_value = 1
      duration        = "300s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_RATE"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    content   = "Clients get 503 while all instances are full or shutting down; anything else is in the log."
    mime_type = "text/markdown"
  }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "memory" {
  count = local.monitored

  display_name          = "${var.name}: memory runs out"
  combiner              = "OR"
  notification_channels = var.monitoring.notification_channels

  conditions {
    display_name = "an instance uses more than 90 % of its memory"
    condition_threshold {
      filter          = "${local.on_service} AND metric.type = \"run.googleapis.com/container/memory/utilizations\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0.9
      duration        = "300s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_PERCENTILE_99"
        cross_series_reducer = "REDUCE_MAX"
      }
    }
  }

  documentation {
    content   = "An instance that runs out of memory is killed, with all its sockets. Raise service.memory, or lower CLOUD_SOCKETS_MAX_BUFFERED_TOTAL."
    mime_type = "text/markdown"
  }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "critical_log" {
  count = local.monitored

  display_name          = "${var.name}: an instance cannot start"
  combiner              = "OR"
  notification_channels = var.monitoring.notification_channels

  conditions {
    display_name = "a critical log line"
    condition_matched_log {
      filter = "${local.in_log} severity=CRITICAL"
    }
  }

  alert_strategy {
    auto_close = "86400s"
    notification_rate_limit {
      period = "3600s"
    }
  }

  documentation {
    content   = "The line names what is missing, and the command or role that mends it."
    mime_type = "text/markdown"
  }

  depends_on = [google_project_service.this]
}

# Counted in the log, so that they are there without the collector too.

locals {
  log_metrics = {
    malformed = { description = "Messages from the topic that could not be used", filter = "jsonPayload.message=~\"^dropped the malformed message\"" }
    errors    = { description = "Log lines of severity ERROR and above", filter = "severity>=ERROR" }
    refused   = { description = "Sockets refused for their origin or their session", filter = "jsonPayload.message=~\"^refused a socket\"" }
  }
}

resource "google_logging_metric" "this" {
  for_each = var.monitoring.enabled ? local.log_metrics : {}

  name        = "${var.name}/${each.key}"
  description = each.value.description
  filter      = "${local.in_log} ${each.value.filter}"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }

  depends_on = [google_project_service.this]
}

# From outside. Behind Identity-Aware Proxy nobody outside can ask.

locals {
  uptime_checked = var.monitoring.enabled && var.monitoring.uptime_check && !local.iap ? 1 : 0
}

resource "google_monitoring_uptime_check_config" "ready" {
  count = local.uptime_checked

  display_name = "${var.name}: ready"
  timeout      = "10s"
  period       = "60s"

  http_check {
    path         = "/health/ready"
    port         = 443
    use_ssl      = true
    validate_ssl = true
    service_agent_authentication {
      type = "OIDC_TOKEN" # the service may be closed to everybody else
    }
  }

  monitored_resource {
    type = "uptime_url"
    labels = {
      project_id = var.project_id
      host       = local.host
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_cloud_run_v2_service_iam_member" "uptime" {
  count = local.uptime_checked

  name     = google_cloud_run_v2_service.this.name
  location = var.region
  role     = "roles/run.invoker"
  member   = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-monitoring-notification.iam.gserviceaccount.com"

  depends_on = [google_monitoring_uptime_check_config.ready] # in a new project, Monitoring makes that account with it
}

resource "google_monitoring_alert_policy" "uptime" {
  count = local.uptime_checked

  display_name          = "${var.name}: not ready"
  combiner              = "OR"
  notification_channels = var.monitoring.notification_channels

  conditions {
    display_name = "/health/ready fails from several places"
    condition_threshold {
      filter          = "resource.type = \"uptime_url\" AND metric.type = \"monitoring.googleapis.com/uptime_check/check_passed\" AND metric.labels.check_id = \"${google_monitoring_uptime_check_config.ready[0].uptime_check_id}\""
      comparison      = "COMPARISON_GT"
      threshold_value = 1
      duration        = "120s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_NEXT_OLDER"
        cross_series_reducer = "REDUCE_COUNT_FALSE"
        group_by_fields      = ["resource.label.host"]
      }
    }
  }

  documentation {
    content   = "The answer of /health/ready says why, in plain words."
    mime_type = "text/markdown"
  }
}

# The dashboard: what an operator asks first, from left to right.

locals {
  charts = concat(
    local.collected ? [
      { title = "Connections", query = "sum(cloud_sockets_connections{${local.target}})" },
      { title = "Messages sent per second", query = "sum(rate(cloud_sockets_messages_sent_total{${local.target}}[1m]))" },
      { title = "Messages that arrived, per second and instance", query = "avg(rate(cloud_sockets_messages_arrived_total{${local.target}}[1m]))" },
      { title = "Published per second, by result", query = "sum by (result) (rate(cloud_sockets_messages_published_total{${local.target}}[1m]))" },
      { title = "Instances that hear the topic", query = "sum(cloud_sockets_pubsub_hearing{${local.target}})" },
      { title = "Backlog to be published (bytes)", query = "max(cloud_sockets_publish_backlog_bytes{${local.target}})" },
      { title = "Bytes that wait for clients", query = "sum(cloud_sockets_buffered_bytes{${local.target}})" },
      { title = "Connections that ended per second, by code", query = "sum by (code) (rate(cloud_sockets_connections_closed_total{${local.target}}[1m]))" },
      { title = "Refused upgrades per second, by reason", query = "sum by (reason) (rate(cloud_sockets_connections_refused_total{${local.target}}[1m]))" },
      { title = "Errors told to clients per second, by code", query = "sum by (code) (rate(cloud_sockets_errors_total{${local.target}}[1m]))" },
      { title = "Acknowledgements awaited", query = "sum(cloud_sockets_acks_pending{${local.target}})" },
      { title = "Duplicates dropped per second", query = "sum by (by) (rate(cloud_sockets_duplicates_dropped_total{${local.target}}[1m]))" },
    ] : [],
  )
  cloud_run_charts = [
    { title = "Instances", type = "run.googleapis.com/container/instance_count", aligner = "ALIGN_MAX", reducer = "REDUCE_SUM" },
    { title = "CPU (p99)", type = "run.googleapis.com/container/cpu/utilizations", aligner = "ALIGN_PERCENTILE_99", reducer = "REDUCE_MAX" },
    { title = "Memory (p99)", type = "run.googleapis.com/container/memory/utilizations", aligner = "ALIGN_PERCENTILE_99", reducer = "REDUCE_MAX" },
    { title = "Bytes to clients per second", type = "run.googleapis.com/container/network/sent_bytes_count", aligner = "ALIGN_RATE", reducer = "REDUCE_SUM" },
  ]
  queries = concat(
    [for chart in local.charts : { title = chart.title, source = { prometheusQuery = chart.query } }],
    [for chart in local.cloud_run_charts : {
      title = chart.title
      source = {
        timeSeriesFilter = {
          filter = "${local.on_service} AND metric.type = \"${chart.type}\""
          aggregation = {
            alignmentPeriod    = "60s"
            perSeriesAligner   = chart.aligner
            crossSeriesReducer = chart.reducer
          }
        }
      }
    }],
  )
}

resource "google_monitoring_dashboard" "this" {
  count = local.monitored

  dashboard_json = jsonencode({
    displayName = var.name
    mosaicLayout = {
      columns = 48
      tiles = [for number, query in local.queries : {
        xPos   = number % 3 * 16
        yPos   = floor(number / 3) * 12
        width  = 16
        height = 12
        widget = {
          title   = query.title
          xyChart = { dataSets = [{ plotType = "LINE", targetAxis = "Y1", timeSeriesQuery = query.source }] }
        }
      }]
    }
  })

  depends_on = [google_project_service.this]
}
