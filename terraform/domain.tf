# Optional: a global load balancer, for a name of your own, a limit on connections per client, and Identity-Aware Proxy.
# With it the service takes requests from the load balancer only.

locals {
  balanced = var.domain == null ? 0 : 1
  iap      = try(var.domain.iap, false)
}

resource "google_compute_global_address" "this" {
  count = local.balanced

  name = var.name

  depends_on = [google_project_service.this]
}

resource "google_compute_managed_ssl_certificate" "this" {
  count = local.balanced

  name = "${var.name}-${substr(sha256(var.domain.name), 0, 8)}" # a certificate cannot change its domain

  managed {
    domains = [var.domain.name]
  }

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [google_project_service.this]
}

# Two ways to the service: the revisions that have traffic, and the pipeline's canary, which is asked by a header.

resource "google_compute_region_network_endpoint_group" "this" {
  for_each = var.domain == null ? {} : { live = null, canary = "canary" }

  name                  = "${var.name}-${each.key}"
  region                = var.region
  network_endpoint_type = "SERVERLESS"

  cloud_run {
    service = google_cloud_run_v2_service.this.name
    tag     = each.value
  }
}

resource "google_compute_backend_service" "this" {
  for_each = google_compute_region_network_endpoint_group.this

  name                  = "${var.name}-${each.key}"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  protocol              = "HTTPS"
  security_policy       = google_compute_security_policy.this[0].id

  backend {
    group = each.value.id
  }

  log_config {
    enable      = true
    sample_rate = 0.1
  }

  iap {
    enabled = local.iap
  }
}

resource "google_compute_security_policy" "this" {
  #checkov:skip=CKV_GCP_73:There is no Java behind it; the rule would inspect every request for nothing
  count = local.balanced

  name        = var.name
  description = "At most ${var.domain.rate_limit} connections and requests in ${var.domain.rate_limit_seconds} s from one address"

  rule {
    description = "Limit each client address"
    priority    = 1000
    action      = "throttle"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
    rate_limit_options {
      conform_action = "allow"
      exceed_action  = "deny(429)"
      enforce_on_key = "IP"
      rate_limit_threshold {
        count        = var.domain.rate_limit
        interval_sec = var.domain.rate_limit_seconds
      }
    }
  }

  rule {
    description = "The rule that every policy must have"
    priority    = 2147483647
    action      = "allow"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_compute_url_map" "this" {
  count = local.balanced

  name            = var.name
  default_service = google_compute_backend_service.this["live"].id

  host_rule {
    hosts        = [var.domain.name]
    path_matcher = "all"
  }

  path_matcher {
    name            = "all"
    default_service = google_compute_backend_service.this["live"].id

    route_rules {
      priority = 1
      service  = google_compute_backend_service.this["canary"].id
      match_rules {
        prefix_match = "/"
        header_matches {
          header_name = "x-cloud-sockets-revision"
          exact_match = "canary"
        }
      }
    }
  }
}

resource "google_compute_ssl_policy" "this" {
  count = local.balanced

  name            = var.name
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"

  depends_on = [google_project_service.this]
}

resource "google_compute_target_https_proxy" "this" {
  count = local.balanced

  name             = var.name
  url_map          = google_compute_url_map.this[0].id
  ssl_certificates = [google_compute_managed_ssl_certificate.this[0].id]
  ssl_policy       = google_compute_ssl_policy.this[0].id
}

resource "google_compute_global_forwarding_rule" "https" {
  count = local.balanced

  name                  = "${var.name}-https"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  target                = google_compute_target_https_proxy.this[0].id
  ip_address            = google_compute_global_address.this[0].id
  port_range            = "443"
}

resource "google_compute_url_map" "redirect" {
  count = local.balanced

  name = "${var.name}-redirect"

  default_url_redirect {
    https_redirect         = true
    redirect_response_code = "MOVED_PERMANENTLY_DEFAULT"
    strip_query            = false
  }

  depends_on = [google_project_service.this]
}

resource "google_compute_target_http_proxy" "redirect" {
  count = local.balanced

  name    = "${var.name}-redirect"
  url_map = google_compute_url_map.redirect[0].id
}

resource "google_compute_global_forwarding_rule" "http" {
  count = local.balanced

  name                  = "${var.name}-http"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  target                = google_compute_target_http_proxy.redirect[0].id
  ip_address            = google_compute_global_address.this[0].id
  port_range            = "80"
}

# Identity-Aware Proxy: who may pass, and that it may call the service itself. Its account is made by
# `gcloud beta services identity create --service=iap.googleapis.com`, once in a project.

resource "google_cloud_run_v2_service_iam_member" "iap" {
  count = local.iap ? 1 : 0

  name     = google_cloud_run_v2_service.this.name
  location = var.region
  role     = "roles/run.invoker"
  member   = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-iap.iam.gserviceaccount.com"
}

resource "google_iap_web_backend_service_iam_member" "members" {
  for_each = local.iap ? toset(var.domain.iap_members) : toset([])

  web_backend_service = google_compute_backend_service.this["live"].name
  role                = "roles/iap.httpsResourceAccessor"
  member              = each.key
}
