//! The effective configuration as a file that would give the same.

use std::fmt::Write;

use toml::Value;

use crate::config::Settings;

/// Sections of the file; the keys of the others are at the top.
const SECTIONS: [&str; 7] = ["http", "log", "raft", "storage", "idempotency", "watch", "compute"];

/// Every key with its help as a comment; a key without a value is commented out.
pub(super) fn to_toml(keys: &clap::Command, settings: &Settings) -> String {
    let mut top = String::new();
    let mut sections = SECTIONS.map(|section| format!("\n[{section}]\n"));
    for arg in keys.get_arguments() {
        let id = arg.get_id().as_str();
        let in_section = SECTIONS
            .iter()
            .position(|section| id.strip_prefix(section).is_some_and(|rest| rest.starts_with('_')));
        let (out, key) = match in_section {
            Some(position) => (&mut sections[position], &id[SECTIONS[position].len() + 1..]),
            None => (&mut top, id),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = match value(id, settings) {
            Some(value) => writeln!(out, "# {help}\n{key} = {value}"),
            None => writeln!(out, "# {help}\n# {key} ="),
        };
    }
    top + &sections.concat()
}

/// The value of a key; `None` when it has none. A test sees to it that no key is missing here.
fn value(id: &str, s: &Settings) -> Option<Value> {
    let text = |value: &dyn ToString| Some(Value::String(value.to_string()));
    let path = |path: &std::path::Path| Some(Value::String(path.display().to_string()));
    let time =
        |value: std::time::Duration| Some(Value::String(humantime::format_duration(value).to_string()));
    let size = |value: bytesize::ByteSize| Some(Value::String(value.as_u64().to_string()));
    let number = |value: u64| Some(Value::Integer(i64::try_from(value).unwrap_or(i64::MAX)));
    let list = |values: Vec<String>| Some(Value::Array(values.into_iter().map(Value::String).collect()));
    match id {
        "name" => text(&s.name),
        "data_dir" => path(&s.data_dir),
        "http_listen" => text(&s.http_listen),
        "http_advertise" => s.http_advertise.as_ref().and_then(|v| text(v)),
        "peer_listen" => text(&s.peer_listen),
        "peer_advertise" => s.peer_advertise.as_ref().and_then(|v| text(v)),
        "initial_cluster" => s.initial_cluster.as_ref().and_then(|v| text(v)),
        "request_timeout" => time(s.request_timeout),
        "stop_timeout" => time(s.stop_timeout),
        "http_connections_max" => number(s.http_connections_max as u64),
        "http_header_timeout" => time(s.http_header_timeout),
        "http_body_timeout" => time(s.http_body_timeout),
        "http_write_timeout" => time(s.http_write_timeout),
        "http_idle_timeout" => time(s.http_idle_timeout),
        "http_head_bytes_max" => size(s.http_head_bytes_max),
        "http_headers_max" => number(s.http_headers_max as u64),
        "http_uri_bytes_max" => size(s.http_uri_bytes_max),
        "http_writes_max" => number(s.http_writes_max as u64),
        "http_reads_max" => number(s.http_reads_max as u64),
        "http_waiting_max" => number(s.http_waiting_max as u64),
        "http_waiting_timeout" => time(s.http_waiting_timeout),
        "http_cors_origins" => list(s.http_cors_origins.clone()),
        "insecure" => Some(Value::Boolean(s.insecure)),
        "no_auth" => Some(Value::Boolean(s.no_auth)),
        "log_level" => text(&s.log_level),
        "log_format" => text(&match s.log_format {
            hearth_monitoring::logs::LogFormat::Text => "text",
            hearth_monitoring::logs::LogFormat::Json => "json",
        }),
        "log_dir" => s.log_dir.as_deref().and_then(path),
        "log_files_max" => number(s.log_files_max as u64),
        "log_lines_max" => number(s.log_lines_max as u64),
        "log_slow_request" => time(s.log_slow_request),
        "raft_heartbeat_interval" => time(s.raft_heartbeat_interval),
        "raft_election_timeout_min" => time(s.raft_election_timeout_min),
        "raft_election_timeout_max" => time(s.raft_election_timeout_max),
        "raft_log_catch_up_bytes" => size(s.raft_log_catch_up_bytes),
        "raft_log_keep_entries" => number(s.raft_log_keep_entries),
        "raft_proposals_max" => number(s.raft_proposals_max as u64),
        "storage_data_bytes_max" => size(s.storage_data_bytes_max),
        "storage_disk_free_min" => size(s.storage_disk_free_min),
        "storage_checkpoint_entries" => number(s.storage_checkpoint_entries),
        "storage_checkpoint_bytes" => size(s.storage_checkpoint_bytes),
        "storage_stall_timeout" => time(s.storage_stall_timeout),
        "storage_checkpoint_interval" => time(s.storage_checkpoint_interval),
        "idempotency_window" => time(s.idempotency_window),
        "idempotency_keys_max" => number(s.idempotency_keys_max),
        "watch_streams_max" => number(s.watch_streams_max as u64),
        "watch_history_events" => number(s.watch_history_events as u64),
        "watch_history_bytes" => size(s.watch_history_bytes),
        "watch_heartbeat_interval" => time(s.watch_heartbeat_interval),
        "compute_pool_cpu_percent" => number(s.compute_pool_cpu_percent.into()),
        "compute_cpu_threads" => number(s.compute_cpu_threads as u64),
        "compute_cpu_waiting_max" => number(s.compute_cpu_waiting_max as u64),
        "compute_cpu_pool" => number(s.compute_cpu_pool as u64),
        "compute_cpu_pool_age" => time(s.compute_cpu_pool_age),
        "compute_local_program_path" => s.compute_local_program_path.as_deref().and_then(path),
        "compute_local_program_args" => list(s.compute_local_program_args.clone()),
        "compute_local_program_env" => {
            list(s.compute_local_program_env.iter().map(|v| format!("{}={}", v.name, v.value)).collect())
        }
        "compute_local_program_working_dir" => path(&s.compute_local_program_working_dir),
        "compute_local_program_timeout" => time(s.compute_local_program_timeout),
        "compute_local_program_running_max" => number(s.compute_local_program_running_max as u64),
        "compute_local_program_waiting_max" => number(s.compute_local_program_waiting_max as u64),
        "compute_local_program_output_bytes_max" => size(s.compute_local_program_output_bytes_max),
        "compute_local_program_memory_bytes_max" => size(s.compute_local_program_memory_bytes_max),
        "compute_local_program_files_max" => number(s.compute_local_program_files_max),
        "compute_local_program_file_bytes_max" => size(s.compute_local_program_file_bytes_max),
        "compute_local_program_pool" => s.compute_local_program_pool.and_then(|pool| number(pool as u64)),
        "compute_local_program_pool_age" => time(s.compute_local_program_pool_age),
        _ => None,
    }
}
