# Keys come in as ephemeral variables and go to Secret Manager through write-only arguments: no plan and no state has them.

resource "google_secret_manager_secret" "secret_key" {
  count = var.secret_key_version > 0 ? 1 : 0

  secret_id = "${var.name}-secret-key"

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_secret_manager_secret_version" "secret_key" {
  count = var.secret_key_version > 0 ? 1 : 0

  secret                 = google_secret_manager_secret.secret_key[0].id
  secret_data_wo         = var.secret_key
  secret_data_wo_version = var.secret_key_version

  lifecycle {
    create_before_destroy = true # running instances go on with the old one until a new revision has the new one
  }
}

resource "google_secret_manager_secret" "api_keys" {
  count = var.api_keys_version > 0 ? 1 : 0

  secret_id = "${var.name}-api-keys"

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_secret_manager_secret_version" "api_keys" {
  count = var.api_keys_version > 0 ? 1 : 0

  secret                 = google_secret_manager_secret.api_keys[0].id
  secret_data_wo         = var.api_keys
  secret_data_wo_version = var.api_keys_version

  lifecycle {
    create_before_destroy = true
  }
}

# The sidecar reads what to scrape from a file, and a file on Cloud Run is a secret. There is nothing secret in it.

resource "google_secret_manager_secret" "scrape" {
  count = var.prometheus_sidecar ? 1 : 0

  secret_id = "${var.name}-scrape"

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_secret_manager_secret_version" "scrape" {
  count = var.prometheus_sidecar ? 1 : 0

  secret = google_secret_manager_secret.scrape[0].id
  secret_data = yamlencode({
    apiVersion = "monitoring.googleapis.com/v1beta"
    kind       = "RunMonitoring"
    metadata   = { name = var.name }
    spec       = { endpoints = [{ port = 8080, path = "/metrics", interval = "30s" }] }
  })
}

locals {
  # Environment variable -> the secret that it takes its value from.
  secret_environment = merge(
    var.secret_key_version == 0 ? {} : {
      SECRET_KEY = {
        secret  = google_secret_manager_secret.secret_key[0].secret_id
        version = google_secret_manager_secret_version.secret_key[0].version
      }
    },
    var.api_keys_version == 0 ? {} : {
      CLOUD_SOCKETS_API_KEYS = {
        secret  = google_secret_manager_secret.api_keys[0].secret_id
        version = google_secret_manager_secret_version.api_keys[0].version
      }
    },
  )

  secrets_read = merge(
    var.secret_key_version == 0 ? {} : { secret_key = google_secret_manager_secret.secret_key[0].id },
    var.api_keys_version == 0 ? {} : { api_keys = google_secret_manager_secret.api_keys[0].id },
    var.prometheus_sidecar ? { scrape = google_secret_manager_secret.scrape[0].id } : {},
  )
}

resource "google_secret_manager_secret_iam_member" "runtime" {
  for_each = local.secrets_read

  secret_id = each.value
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.runtime.member
}
