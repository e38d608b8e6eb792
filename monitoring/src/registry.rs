//! The metrics registry: made once, passed to whoever measures, encoded on request.

use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGauge, Opts, Registry, TextEncoder};

/// The content type of what [`encode`] returns: Prometheus' text exposition format 0.0.4.
///
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#basic-info>
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A new registry with what every process has: `hearth_build_info{version,node}`, always 1, and the
/// process metrics (`process_cpu_seconds_total`, `process_open_fds`, `process_resident_memory_bytes`, …).
///
/// `version` is the version of the binary, `node` the configured name of the node.
pub fn registry(version: &str, node: &str) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    let build_info = IntGauge::with_opts(
        Opts::new("hearth_build_info", "Always 1; the labels tell the version and the node's name.")
            .const_label("version", version)
            .const_label("node", node),
    )?;
    build_info.set(1);
    registry.register(Box::new(build_info))?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// Everything registered, as text; serve it with [`CONTENT_TYPE`].
///
/// Fails when a collector returns something that the format cannot carry, for example a family without
/// metrics; the registry itself is unharmed.
pub fn encode(registry: &Registry) -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&registry.gather())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_info_names_version_and_node() {
        let text = encode(&registry("1.2.3", "n\"1").unwrap()).unwrap();
        assert!(text.contains("# TYPE hearth_build_info gauge\n"), "{text}");
        assert!(text.contains("hearth_build_info{node=\"n\\\"1\",version=\"1.2.3\"} 1\n"), "{text}");
    }

    #[test]
    fn process_metrics_are_there() {
        let text = encode(&registry("1.2.3", "n1").unwrap()).unwrap();
        let wanted = [
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_threads",
        ];
        for name in wanted {
            assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name} in {text}");
        }
    }

    #[test]
    fn two_registries_share_nothing() {
        let (one, two) = (registry("1", "n1").unwrap(), registry("1", "n2").unwrap());
        let counter = prometheus::IntCounter::new("hearth_test_total", "Test.").unwrap();
        one.register(Box::new(counter.clone())).unwrap();
        counter.inc();
        assert!(encode(&one).unwrap().contains("hearth_test_total 1\n"));
        assert!(!encode(&two).unwrap().contains("hearth_test_total"));
    }
}
