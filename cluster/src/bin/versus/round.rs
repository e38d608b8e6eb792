//! One window of one system, in figures.

use std::fmt;
use std::time::Duration;

use hearth_cluster::load::Operation;
use serde_json::{Value, json};

use crate::load::{Load, Measured};
use crate::options::System;

/// One window of one system.
#[derive(Clone, Debug)]
pub struct Round {
    /// What was asked for.
    pub operation: Operation,
    /// How many asked.
    pub connections: u32,
    /// Who was asked.
    pub system: System,
    /// From 1.
    pub number: u32,
    /// Requests answered as they should be.
    pub operations: u64,
    /// Requests that were not.
    pub errors: u64,
    /// The first of those.
    pub first_error: Option<String>,
    /// The measures, in the order of [`MEASURES`].
    pub measures: [f64; MEASURES.len()],
    /// Processors used by the servers that had no load.
    pub others_cores: f64,
    /// Processors used by programs that have no part in this.
    pub strangers_cores: f64,
    /// Share of its one processor that the client used.
    pub client_share: f64,
    /// Whether the leader was another one at the end.
    pub leader_changed: bool,
}

/// What each round measures: its name in the table, in JSON, and its decimals.
pub const MEASURES: [(&str, &str, usize); 6] = [
    ("op/s", "throughput_per_second", 0),
    ("p50 ms", "p50_ms", 3),
    ("p99 ms", "p99_ms", 3),
    ("p99.9 ms", "p99_9_ms", 3),
    ("server CPU µs/op", "server_cpu_us_per_operation", 1),
    ("client CPU µs/op", "client_cpu_us_per_operation", 1),
];

impl Round {
    /// What a window showed.
    pub fn new(load: &Load, system: System, number: u32, measured: &Measured) -> Self {
        let seconds = measured.elapsed.as_secs_f64();
        let operations = measured.operations as f64;
        let quantile_ms = |quantile| measured.latency.value_at_quantile(quantile) as f64 / 1e6;
        let us_per_operation = |used: Duration| used.as_secs_f64() * 1e6 / operations;
        Self {
            operation: load.operation,
            connections: load.connections,
            system,
            number,
            operations: measured.operations,
            errors: measured.errors,
            first_error: measured.first_error.clone(),
            measures: [
                operations / seconds,
                quantile_ms(0.5),
                quantile_ms(0.99),
                quantile_ms(0.999),
                us_per_operation(measured.used.servers),
                us_per_operation(measured.used.client),
            ],
            others_cores: measured.used.others.as_secs_f64() / seconds,
            strangers_cores: measured.used.strangers().as_secs_f64() / seconds,
            client_share: measured.used.client.as_secs_f64() / seconds,
            leader_changed: measured.leader_changed,
        }
    }

    /// The same for programs.
    pub fn to_json(&self) -> Value {
        let mut object = json!({
            "operation": self.operation.to_string(),
            "connections": self.connections,
            "system": self.system.to_string(),
            "round": self.number,
            "operations": self.operations,
            "errors": self.errors,
            "first_error": self.first_error,
            "client_share": self.client_share,
            "others_cores": self.others_cores,
            "strangers_cores": self.strangers_cores,
            "leader_changed": self.leader_changed,
        });
        for ((_, name, _), value) in MEASURES.iter().zip(self.measures) {
            object[name] = json!(value);
        }
        object
    }
}

impl fmt::Display for Round {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, connections, system, number, errors, .. } = self;
        write!(out, "{operation:<9} {connections:>4} conn, round {number}, {system:<6}")?;
        for ((name, _, decimals), value) in MEASURES.iter().zip(self.measures) {
            write!(out, "  {value:.decimals$} {name}")?;
        }
        if *errors > 0 { write!(out, "  {errors} errors") } else { Ok(()) }
    }
}
