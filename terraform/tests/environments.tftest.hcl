# `terraform test -var-file=environments/prod.tfvars -var=services_image=…`: what production must be planned as.
# The rules that need more words are in the project's tests/terraform.

run "production_survives_a_zone" {
  command = plan

  assert {
    condition     = google_sql_database_instance.this.settings[0].availability_type == "REGIONAL"
    error_message = "the database has no standby"
  }
  assert {
    condition     = google_sql_database_instance.this.settings[0].backup_configuration[0].point_in_time_recovery_enabled
    error_message = "the database cannot be restored to a point in time"
  }
  assert {
    condition     = google_cloud_run_v2_worker_pool.dispatcher.scaling[0].manual_instance_count >= 2
    error_message = "one dispatcher is one too few"
  }
  assert {
    condition     = google_memorystore_instance.counters.replica_count >= 1
    error_message = "the counters have no replica"
  }
}

run "each_sap_system_is_a_lane_of_its_own" {
  command = plan

  variables {
    sap_systems = { s4-main = 4, s4-asia = 2, s4-test = 1 }
  }
  assert {
    condition     = length(google_pubsub_subscription.carrier) == 4 && length(google_pubsub_subscription.dead_letters) == 4
    error_message = "three SAP systems and the events are four subscriptions, each with its dead letters"
  }
}

run "a_domain_brings_a_load_balancer_that_proves_itself" {
  command = plan

  assert {
    condition     = length(google_compute_global_forwarding_rule.edge) == 1 && contains(keys(local.secret_files["gateway"]), "edge-key")
    error_message = "the gateway would believe whoever calls past the load balancer"
  }
}

run "without_one_there_is_neither" {
  command = plan

  variables {
    public_domain = null
  }
  assert {
    condition     = length(google_compute_global_forwarding_rule.edge) == 0 && !contains(keys(local.secret_files["gateway"]), "edge-key")
    error_message = "the gateway would wait for a key that nobody sends"
  }
}

run "no_sap_mock_in_production" {
  command = plan

  variables {
    sap_mock = true
  }
  expect_failures = [var.sap_mock]
}
