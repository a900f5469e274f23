# What must be refused before anything is made, each with a sentence that says what is allowed.

mock_provider "google" {}

variables {
  project_id = "my-project"
  auth       = "anonymous"
  secret_key = ""
  api_keys   = ""
}

run "no_such_auth" {
  command = plan
  variables {
    auth = "everybody"
  }
  expect_failures = [var.auth]
}

run "session_without_a_key" {
  command = plan
  variables {
    auth = "session"
  }
  expect_failures = [var.secret_key_version]
}

run "session_with_a_parser_needs_no_key" {
  command = plan
  variables {
    auth     = "session"
    settings = { session_parser = "mine:parse" }
  }
}

run "a_key_that_is_too_short" {
  command = plan
  variables {
    secret_key         = "short"
    secret_key_version = 1
  }
  expect_failures = [var.secret_key]
}

run "api_keys_with_spaces" {
  command = plan
  variables {
    api_keys         = "one key and another key"
    api_keys_version = 1
  }
  expect_failures = [var.api_keys]
}

run "a_bad_name" {
  command = plan
  variables {
    name = "My Service"
  }
  expect_failures = [var.name]
}

run "a_bad_project" {
  command = plan
  variables {
    project_id = "My Project"
  }
  expect_failures = [var.project_id]
}

run "a_zone_is_no_region" {
  command = plan
  variables {
    region = "europe-west1-b"
  }
  expect_failures = [var.region]
}

run "an_invoker_without_its_kind" {
  command = plan
  variables {
    invokers = ["someone@example.com"]
  }
  expect_failures = [var.invokers]
}

run "a_topic_is_never_open_to_all" {
  command = plan
  variables {
    publishers = ["allUsers"]
  }
  expect_failures = [var.publishers]
}

run "too_much_concurrency" {
  command = plan
  variables {
    service = { concurrency = 1001 }
  }
  expect_failures = [var.service]
}

run "no_room_for_probes" {
  command = plan
  variables {
    service = { concurrency = 10, http_room = 10 }
  }
  expect_failures = [var.service]
}

run "longer_than_an_hour" {
  command = plan
  variables {
    service = { timeout_seconds = 3601 }
  }
  expect_failures = [var.service]
}

run "more_instances_than_a_topic_takes" {
  command = plan
  variables {
    service = { max_instances = 5001 }
  }
  expect_failures = [var.service]
}

run "fewer_at_most_than_at_least" {
  command = plan
  variables {
    service = { min_instances = 3, max_instances = 2 }
  }
  expect_failures = [var.service]
}

run "half_a_cpu" {
  command = plan
  variables {
    service = { cpu = "0.5" }
  }
  expect_failures = [var.service]
}

run "memory_without_a_unit" {
  command = plan
  variables {
    service = { memory = "512" }
  }
  expect_failures = [var.service]
}

run "a_retention_that_pubsub_refuses" {
  command = plan
  variables {
    topic = { retention_seconds = 60 }
  }
  expect_failures = [var.topic]
}

run "a_path_that_cloud_run_keeps" {
  command = plan
  variables {
    settings = { path = "/sockz" }
  }
  expect_failures = [var.settings]
}

run "a_setting_that_is_no_whole_number" {
  command = plan
  variables {
    settings = { max_payload = 0.5 }
  }
  expect_failures = [var.settings]
}

run "a_log_level_that_is_none" {
  command = plan
  variables {
    settings = { log_level = "LOUD" }
  }
  expect_failures = [var.settings]
}

run "two_answers_to_who_may_connect" {
  command = plan
  variables {
    settings = { setup_http_user = true }
  }
  expect_failures = [var.settings]
}

run "a_topic_that_forgets_before_the_history_does" {
  command = plan
  variables {
    topic    = { retention_seconds = 600 }
    settings = { history_ttl = 600 }
  }
  expect_failures = [var.topic]
}

run "a_history_that_is_negative" {
  command = plan
  variables {
    settings = { history_size = -1 }
  }
  expect_failures = [var.settings]
}

run "an_address_for_a_domain" {
  command = plan
  variables {
    domain = { name = "https://sockets.example.com/" }
  }
  expect_failures = [var.domain]
}

run "a_rate_interval_that_cloud_armor_refuses" {
  command = plan
  variables {
    domain = { name = "sockets.example.com", rate_limit_seconds = 45 }
  }
  expect_failures = [var.domain]
}

run "a_version_of_the_secret_key_that_is_none" {
  command = plan
  variables {
    secret_key         = "a-secret-key-of-some-length"
    secret_key_version = 1.5
  }
  expect_failures = [var.secret_key_version]
}

run "a_version_of_the_api_keys_that_is_none" {
  command = plan
  variables {
    api_keys         = "an-api-key-of-some-length"
    api_keys_version = -1
  }
  expect_failures = [var.api_keys_version]
}
