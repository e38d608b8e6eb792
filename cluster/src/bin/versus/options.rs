//! What is measured, as given on the command line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use hearth_cluster::load::Operation;

/// Measures Hearth and etcd side by side: three processes each, on this machine's loopback.
#[derive(Debug, Parser)]
pub struct Options {
    /// Operations measured, in this order.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "put,get,get-local,empty")]
    pub only: Vec<Operation>,
    /// Numbers of connections, each with one request in flight.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub connections: Vec<u32>,
    /// Seconds measured in each round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Seconds of the same load before that.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=3600))]
    pub warmup: u64,
    /// Rounds of each cell; the table has their medians.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Measure Hearth alone.
    #[arg(long)]
    pub skip_etcd: bool,
    /// The server to measure; by default it is built from this workspace.
    #[arg(long, value_name = "PATH")]
    pub hearthd: Option<PathBuf>,
    /// An earlier build of the same server, measured in turns with it: what a change brings, on a machine whose
    /// speed changes from minute to minute.
    #[arg(long, value_name = "PATH")]
    pub before: Option<PathBuf>,
    /// etcd's server, also as a name to look for in PATH.
    #[arg(long, value_name = "PATH", default_value = "etcd")]
    pub etcd: PathBuf,
    /// Where both keep their data while this runs; by default the temporary directory.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Also write every round to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Further flags for every node of Hearth, after `--`.
    #[arg(last = true)]
    pub flags: Vec<String>,
}

impl Options {
    /// How long the load runs before it is measured.
    pub fn warmup(&self) -> Duration {
        Duration::from_secs(self.warmup)
    }

    /// How long it is measured.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What is measured against what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// This workspace's server.
    Hearth,
    /// An earlier build of it.
    Before,
    /// The one to compare with.
    Etcd,
}

impl fmt::Display for System {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Hearth => "hearth",
            Self::Before => "before",
            Self::Etcd => "etcd",
        })
    }
}

/// Whether a system has such a request.
pub fn is_known_to(operation: Operation, system: System) -> bool {
    system != System::Etcd || operation != Operation::Empty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_lists() {
        let options = Options::parse_from(["versus"]);
        assert_eq!(options.connections, [1, 64, 256]);
        assert_eq!(options.only.len(), 4);
        let options =
            Options::parse_from(["versus", "--only", "get-local", "--connections", "3,5", "--", "--x"]);
        assert_eq!(options.only, [Operation::GetLocal]);
        assert_eq!(options.connections, [3, 5]);
        assert_eq!(options.flags, ["--x"]);
    }

    #[test]
    fn senseless_numbers_are_refused() {
        for arguments in [["--connections", "0"], ["--rounds", "0"], ["--seconds", "0"], ["--only", "scan"]] {
            let line = std::iter::once("versus").chain(arguments);
            assert!(Options::try_parse_from(line).is_err(), "{arguments:?}");
        }
    }
}
