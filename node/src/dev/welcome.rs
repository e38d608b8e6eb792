//! What a user sees when the cluster is ready.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::DevOptions;
use super::supervise::Node;

/// The facts for the text that do not change.
pub(super) struct Welcome {
    data_dir: PathBuf,
    /// How `hearth status` is typed here.
    status_command: String,
}

impl Welcome {
    /// For a cluster whose nodes run `executable`.
    pub(super) fn new(options: &DevOptions, executable: &Path) -> Self {
        let mut status_command = client_command(executable);
        // The client's own default is the ports from 8080 to 8082.
        if options.base_port != 8080 || options.nodes > 3 {
            let addresses: Vec<String> =
                (0..options.nodes).map(|index| options.http_address(index).to_string()).collect();
            status_command.push_str(&format!(" --endpoints {}", addresses.join(",")));
        }
        status_command.push_str(" status");
        Self { data_dir: options.data_dir.clone(), status_command }
    }

    /// The addresses, and what to try.
    pub(super) fn text(&self, took: Duration, nodes: &[Node]) -> String {
        let mut text = String::new();
        let plural = if nodes.len() == 1 { "node is" } else { "nodes are" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {plural} ready after {:.2} s", nodes.len(), took.as_secs_f64());
        for node in nodes {
            let pid = node.pid.load(Ordering::Relaxed);
            let _ = writeln!(text, "  {}  http://{}  pid {pid}", node.name, node.http);
        }
        let at = |index: usize| {
            nodes.get(index).or(nodes.last()).map(|node| node.http.to_string()).unwrap_or_default()
        };
        let _ = writeln!(text, "try:");
        let json = "-H 'Content-Type: application/json' -d '{\"name\":\"Ann\",\"age\":41}'";
        let _ = writeln!(text, "  curl -X PUT {}/age {json}", at(0));
        let _ = writeln!(text, "  curl {}/age/Ann", at(1));
        let _ = writeln!(text, "  curl {}/cpu", at(2));
        let _ = writeln!(text, "  curl {}/local_program", at(0));
        let _ = writeln!(text, "  {}", self.status_command);
        let _ = writeln!(text, "data is in {}; Ctrl-C stops all nodes", self.data_dir.display());
        text
    }
}

/// How the client is called: by its name when it is installed beside the node, by cargo in a build folder.
fn client_command(executable: &Path) -> String {
    let in_build_folder = executable.components().any(|part| part.as_os_str() == "target");
    if in_build_folder { "cargo run --release -p hearth-cli --".to_owned() } else { "hearth".to_owned() }
}
