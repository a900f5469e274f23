# Where, and what it is called

variable "project_id" {
  description = "The project that everything is made in."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be a project's id: 6 to 30 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "region" {
  description = "The region of the service, its image and its messages. Order holds within one region."
  type        = string
  default     = "europe-west1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region must be a Cloud Run region such as europe-west1."
  }
}

variable "name" {
  description = "What the service, its topic, its repository and its accounts are called."
  type        = string
  default     = "cloud-sockets"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,20}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 22 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "labels" {
  description = "Labels on everything that takes labels."
  type        = map(string)
  default     = {}
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete the service."
  type        = bool
  default     = true
}

# Who may come in

variable "auth" {
  description = "Who may connect, `CLOUD_SOCKETS_AUTH`: `anonymous` or `session`. There is no default: an open door is decided, not forgotten."
  type        = string

  validation {
    condition     = contains(["anonymous", "session"], var.auth)
    error_message = "auth must be anonymous or session."
  }
}

variable "invokers" {
  description = "Who may call the service at all (`roles/run.invoker`). Browsers cannot send Google's tokens with a WebSocket: for them it is `[\"allUsers\"]`, and `auth` and `allowed_origins` decide. Empty: closed."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.invokers : can(regex("^(allUsers|allAuthenticatedUsers|(user|group|serviceAccount|domain|principal|principalSet):.+)$", member))])
    error_message = "Each of invokers must be allUsers, allAuthenticatedUsers, or such as serviceAccount:name@project.iam.gserviceaccount.com."
  }
}

variable "publishers" {
  description = "Who may publish to the topic (`roles/pubsub.publisher` on it), such as `serviceAccount:orders@other-project.iam.gserviceaccount.com`."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.publishers : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+$", member))])
    error_message = "Each of publishers must be such as serviceAccount:name@project.iam.gserviceaccount.com; a topic is never open to all."
  }
}

variable "secret_key" {
  description = "Signs the session cookie, `SECRET_KEY`; the same as in the app that issues it. Needed with `auth = \"session\"` unless `settings.session_parser` is set. Written when `secret_key_version` changes, kept in Secret Manager, in no state file."
  type        = string
  default     = ""
  ephemeral   = true
  sensitive   = true

  validation {
    condition     = var.secret_key_version == 0 || length(var.secret_key) >= 16
    error_message = "secret_key must have at least 16 characters while secret_key_version is above 0: TF_VAR_secret_key=$(openssl rand -hex 32). It is written only when secret_key_version changes."
  }
}

variable "secret_key_version" {
  description = "0: there is no secret key. Raise it whenever `secret_key` changes."
  type        = number
  default     = 0

  validation {
    condition     = var.secret_key_version >= 0 && floor(var.secret_key_version) == var.secret_key_version
    error_message = "secret_key_version must be 0, 1, 2, ..."
  }
  validation {
    condition     = var.secret_key_version > 0 || var.auth != "session" || var.settings.session_parser != null
    error_message = "auth = \"session\" needs secret_key and secret_key_version = 1, or settings.session_parser."
  }
}

variable "api_keys" {
  description = "Bearer keys for HTTP publish, info and metrics, `CLOUD_SOCKETS_API_KEYS`, separated by commas. Written when `api_keys_version` changes, kept in Secret Manager, in no state file."
  type        = string
  default     = ""
  ephemeral   = true
  sensitive   = true

  validation {
    condition     = var.api_keys_version == 0 || can(regex("^[!-~]{16,}$", var.api_keys))
    error_message = "api_keys must have at least 16 visible ASCII characters while api_keys_version is above 0: TF_VAR_api_keys=$(openssl rand -hex 32). It is written only when api_keys_version changes."
  }
}

variable "api_keys_version" {
  description = "0: there are no API keys, and HTTP publish and info are closed. Raise it whenever `api_keys` changes."
  type        = number
  default     = 0

  validation {
    condition     = var.api_keys_version >= 0 && floor(var.api_keys_version) == var.api_keys_version
    error_message = "api_keys_version must be 0, 1, 2, ..."
  }
}

# What it does

variable "settings" {
  description = "The service's own settings; each is the variable `CLOUD_SOCKETS_<NAME>` (`log_level`: `LOG_LEVEL`) of the README's table, and what is not given keeps the default that stands there."
  type = object({
    ack_message_types          = optional(list(string))
    allowed_origins            = optional(list(string))
    broadcast_message_types    = optional(list(string))
    byte_rate                  = optional(number)
    custom_msg_handlers        = optional(string)
    delivery_skew              = optional(number)
    history_bytes              = optional(number)
    history_size               = optional(number)
    history_ttl                = optional(number)
    http2                      = optional(bool)
    include_user_props         = optional(list(string))
    log_level                  = optional(string)
    max_age                    = optional(number)
    max_awaiting_bytes         = optional(number)
    max_buffered               = optional(number)
    max_buffered_total         = optional(number)
    max_payload                = optional(number)
    max_subscription_bytes     = optional(number)
    max_subscriptions          = optional(number)
    max_unfinished_bytes       = optional(number)
    message_rate               = optional(number)
    msg_resend_delay           = optional(number)
    msg_resend_timeout         = optional(number)
    orphan_grace               = optional(number)
    path                       = optional(string)
    per_message_deflate        = optional(bool)
    publish_backlog            = optional(number)
    pubsub_message_types       = optional(list(string))
    pubsub_provider            = optional(string)
    rollover                   = optional(number)
    session_lifetime           = optional(number)
    session_parser             = optional(string)
    session_user_property_name = optional(string)
    setup_http_user            = optional(bool)
  })
  default = {}

  validation {
    condition     = var.settings.path == null ? true : can(regex("^/[A-Za-z0-9._~/-]*[A-Ya-y0-9._~/-]$", var.settings.path))
    error_message = "settings.path must be a path such as /ws that does not end in z: Cloud Run keeps those for itself."
  }
  validation {
    condition     = var.settings.log_level == null ? true : contains(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], var.settings.log_level)
    error_message = "settings.log_level must be DEBUG, INFO, WARNING, ERROR or CRITICAL."
  }
  validation {
    condition     = !(var.settings.setup_http_user == true && var.auth == "anonymous")
    error_message = "settings.setup_http_user = true means auth = \"session\"."
  }
  validation {
    condition = alltrue([
      for value in [
        var.settings.max_buffered, var.settings.max_buffered_total, var.settings.max_payload, var.settings.max_subscriptions,
        var.settings.msg_resend_delay, var.settings.msg_resend_timeout, var.settings.publish_backlog, var.settings.max_age,
        var.settings.rollover, var.settings.max_awaiting_bytes, var.settings.max_subscription_bytes,
        var.settings.max_unfinished_bytes, var.settings.session_lifetime,
      ] : value == null ? true : value >= 1 && floor(value) == value
    ])
    error_message = "The numbers in settings must be whole and at least 1."
  }
  validation {
    condition = alltrue([
      for value in [
        var.settings.delivery_skew, var.settings.history_bytes, var.settings.history_size, var.settings.history_ttl,
        var.settings.orphan_grace, var.settings.byte_rate, var.settings.message_rate,
      ] : value == null ? true : value >= 0 && floor(value) == value
    ])
    error_message = "The numbers in settings must be whole; those of the history, the rates, delivery_skew and orphan_grace may be 0."
  }
}

variable "service" {
  description = "How Cloud Run runs it: `cpu` and `memory` of an instance, how many instances, how many requests (sockets, mostly) each takes at most, and how many of those are kept free of sockets, for probes and HTTP. `timeout_seconds` ends every socket, at 3600 at the latest."
  type = object({
    cpu             = optional(string, "1")
    memory          = optional(string, "1Gi")
    min_instances   = optional(number, 1)
    max_instances   = optional(number, 10)
    concurrency     = optional(number, 1000)
    http_room       = optional(number, 50)
    timeout_seconds = optional(number, 3600)
    image           = optional(string, "us-docker.pkg.dev/cloudrun/container/hello:latest@sha256:95ade4b17adcd07623b0a0c68359e344fe54e65d0cb01b989e24c39f2fcd296a")
  })
  default = {}

  validation {
    condition     = contains(["1", "2", "4", "6", "8"], var.service.cpu)
    error_message = "service.cpu must be 1, 2, 4, 6 or 8: with less than 1, Cloud Run takes one request at a time."
  }
  validation {
    condition     = can(regex("^[0-9]+(Mi|Gi)$", var.service.memory))
    error_message = "service.memory must be such as 512Mi or 1Gi; the second generation of Cloud Run needs at least 512Mi."
  }
  validation {
    condition     = var.service.min_instances >= 0 && var.service.max_instances >= 1 && var.service.min_instances <= var.service.max_instances
    error_message = "service.min_instances must be at least 0 and not above max_instances."
  }
  validation {
    condition     = var.service.max_instances <= 5000
    error_message = "service.max_instances may be 5000 at most: a topic takes 10,000 subscriptions, and a deployment runs old and new instances side by side."
  }
  validation {
    condition     = var.service.concurrency >= 2 && var.service.concurrency <= 1000
    error_message = "service.concurrency must be from 2 to 1000, which is Cloud Run's limit."
  }
  validation {
    condition     = var.service.http_room >= 1 && var.service.http_room < var.service.concurrency
    error_message = "service.http_room must be at least 1 and below service.concurrency."
  }
  validation {
    condition     = var.service.timeout_seconds >= 60 && var.service.timeout_seconds <= 3600
    error_message = "service.timeout_seconds must be from 60 to 3600, which is Cloud Run's limit."
  }
}

variable "topic" {
  description = "The topic: how long it retains messages for instances that start (`retention_seconds`, 600 to 2678400), the regions where messages may be kept (empty: `region` alone), and `dead_letter`: keep what other services publish for 7 days, in a subscription of its own, with a topic for what its reader refuses."
  type = object({
    retention_seconds = optional(number, 600)
    storage_regions   = optional(list(string), [])
    dead_letter       = optional(bool, false)
  })
  default = {}

  validation {
    condition     = var.topic.retention_seconds >= 600 && var.topic.retention_seconds <= 2678400
    error_message = "topic.retention_seconds must be from 600 (10 minutes) to 2678400 (31 days)."
  }
  validation {
    condition     = var.topic.retention_seconds >= coalesce(var.settings.history_ttl, 300) + coalesce(var.settings.delivery_skew, 5) + 60
    error_message = "topic.retention_seconds must be longer than settings.history_ttl (300 by default) and settings.delivery_skew (5) by a minute: an instance that starts looks back so far."
  }
}

# The world around it

variable "domain" {
  description = "A global load balancer in front of the service, with a certificate for `name` (point its DNS at the output `load_balancer_address`), a limit of connections for each client address (`rate_limit` in `rate_limit_seconds`, then 429), and Identity-Aware Proxy (`iap`, for `iap_members`). Null: the service's own run.app address."
  type = object({
    name               = string
    rate_limit         = optional(number, 100)
    rate_limit_seconds = optional(number, 60)
    iap                = optional(bool, false)
    iap_members        = optional(list(string), [])
  })
  default = null

  validation {
    condition     = var.domain == null ? true : can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain.name))
    error_message = "domain.name must be a host name such as sockets.example.com."
  }
  validation {
    condition     = var.domain == null ? true : var.domain.rate_limit >= 1 && contains([10, 30, 60, 120, 180, 240, 270, 300, 600, 900, 1200, 1800, 2700, 3600], var.domain.rate_limit_seconds)
    error_message = "domain.rate_limit must be at least 1, and domain.rate_limit_seconds one of 10, 30, 60, 120, 180, 240, 270, 300, 600, 900, 1200, 1800, 2700, 3600."
  }
}

variable "prometheus_sidecar" {
  description = "Whether Google's Managed Service for Prometheus collects `/metrics` from every instance, by a container beside it. The dashboard's and the alerts' finer half needs it."
  type        = bool
  default     = true
}

variable "monitoring" {
  description = "Dashboard, alerts and an uptime check. `notification_channels` are names such as `projects/p/notificationChannels/1`."
  type = object({
    enabled               = optional(bool, true)
    notification_channels = optional(list(string), [])
    uptime_check          = optional(bool, true)
  })
  default = {}
}

variable "build" {
  description = "The account and the bucket with which `gcloud builds submit` deploys."
  type = object({
    enabled = optional(bool, true)
  })
  default = {}
}
