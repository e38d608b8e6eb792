//! Every key, with its default, its unit and what it is for.

use std::fmt;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use hearth_monitoring::logs::LogFormat;
use hearth_raft::Member;

/// The keys of a node. Durations are written `500ms` or `5s`, sizes `64MiB` or plain bytes.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Unique name of this node
    #[arg(long, env = "HEARTH_NAME", default_value = "n1", value_parser = name)]
    pub name: String,
    /// Directory for everything this node keeps
    #[arg(long, env = "HEARTH_DATA_DIR", default_value = "./hearth-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where clients connect
    #[arg(long, env = "HEARTH_HTTP_LISTEN", default_value = "127.0.0.1:8080", value_name = "HOST:PORT", value_parser = address)]
    pub http_listen: String,
    /// How others are told to reach http_listen [default: http_listen]
    #[arg(long, env = "HEARTH_HTTP_ADVERTISE", value_name = "HOST:PORT", value_parser = address)]
    pub http_advertise: Option<String>,
    /// Where the other nodes connect
    #[arg(long, env = "HEARTH_PEER_LISTEN", default_value = "127.0.0.1:7080", value_name = "HOST:PORT", value_parser = address)]
    pub peer_listen: String,
    /// How the other nodes reach peer_listen [default: as initial_cluster says, else peer_listen]
    #[arg(long, env = "HEARTH_PEER_ADVERTISE", value_name = "HOST:PORT", value_parser = address)]
    pub peer_advertise: Option<String>,
    /// The members that an empty node forms a cluster with, itself included; the same on every one
    /// of them, in any order [default: this node alone]
    #[arg(long, env = "HEARTH_INITIAL_CLUSTER", value_name = "NAME=HOST:PORT,…")]
    pub initial_cluster: Option<InitialCluster>,
    /// How long a request may take at the store before it is answered with an error
    #[arg(long, env = "HEARTH_REQUEST_TIMEOUT", default_value = "5s", value_name = "TIME", value_parser = duration)]
    pub request_timeout: Duration,
    /// How long requests in progress may take at a stop, and then as long again the storage to close
    #[arg(long, env = "HEARTH_STOP_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub stop_timeout: Duration,
    /// Client connections open at once; further ones wait to be accepted
    #[arg(long, env = "HEARTH_HTTP_CONNECTIONS_MAX", default_value_t = 20_000, value_name = "N")]
    pub http_connections_max: usize,
    /// How long a client may take to send the head of a request
    #[arg(long, env = "HEARTH_HTTP_HEADER_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub http_header_timeout: Duration,
    /// How long a client may take to send the body of a request
    #[arg(long, env = "HEARTH_HTTP_BODY_TIMEOUT", default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub http_body_timeout: Duration,
    /// How long a client may take nothing of an answer
    #[arg(long, env = "HEARTH_HTTP_WRITE_TIMEOUT", default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub http_write_timeout: Duration,
    /// How long a connection may stay open without a request; one second at most when fewer than a
    /// sixteenth of http_connections_max are left
    #[arg(long, env = "HEARTH_HTTP_IDLE_TIMEOUT", default_value = "75s", value_name = "TIME", value_parser = duration)]
    pub http_idle_timeout: Duration,
    /// Bytes of a request's first line and headers
    #[arg(long, env = "HEARTH_HTTP_HEAD_BYTES_MAX", default_value = "32KiB", value_name = "SIZE", value_parser = size)]
    pub http_head_bytes_max: ByteSize,
    /// Headers of a request
    #[arg(long, env = "HEARTH_HTTP_HEADERS_MAX", default_value_t = 100, value_name = "N")]
    pub http_headers_max: usize,
    /// Bytes of a request's path and query
    #[arg(long, env = "HEARTH_HTTP_URI_BYTES_MAX", default_value = "8KiB", value_name = "SIZE", value_parser = size)]
    pub http_uri_bytes_max: ByteSize,
    /// Writes that this node works on at once for its clients
    #[arg(long, env = "HEARTH_HTTP_WRITES_MAX", default_value_t = 256, value_name = "N")]
    pub http_writes_max: usize,
    /// Reads that this node works on at once and that need the leader's word
    #[arg(long, env = "HEARTH_HTTP_READS_MAX", default_value_t = 4096, value_name = "N")]
    pub http_reads_max: usize,
    /// Writes and reads that may wait for that; further ones get 429
    #[arg(long, env = "HEARTH_HTTP_WAITING_MAX", default_value_t = 256, value_name = "N")]
    pub http_waiting_max: usize,
    /// How long they may wait; then they get 429
    #[arg(long, env = "HEARTH_HTTP_WAITING_TIMEOUT", default_value = "1s", value_name = "TIME", value_parser = duration)]
    pub http_waiting_timeout: Duration,
    /// Memory for bodies of requests in progress and for answers of many values; who waits for it longer than
    /// http_waiting_timeout gets 429
    #[arg(long, env = "HEARTH_HTTP_BUFFER_BYTES_MAX", default_value = "256MiB", value_name = "SIZE", value_parser = size)]
    pub http_buffer_bytes_max: ByteSize,
    /// Web origins whose scripts may use this node, as browsers send them (scheme://host:port), or * for
    /// all; give the key once for each [default: none]
    #[arg(long, env = "HEARTH_HTTP_CORS_ORIGINS", value_name = "ORIGIN", value_parser = origin, value_delimiter = ',')]
    pub http_cors_origins: Vec<String>,
    /// Allow listening on other than loopback addresses without TLS
    #[arg(long, env = "HEARTH_INSECURE")]
    pub insecure: bool,
    /// Allow listening on other than loopback addresses without authentication
    #[arg(long, env = "HEARTH_NO_AUTH")]
    pub no_auth: bool,

    /// Least severe log lines to keep: error, warn, info, debug, trace, or directives for targets
    #[arg(long, env = "HEARTH_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// Form of the log on standard output: text or json
    #[arg(long, env = "HEARTH_LOG_FORMAT", default_value = "text", value_name = "FORMAT", value_parser = log_format)]
    pub log_format: LogFormat,
    /// Directory for log files, JSON lines, one a day [default: no files]
    #[arg(long, env = "HEARTH_LOG_DIR", value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Log files to keep
    #[arg(long, env = "HEARTH_LOG_FILES_MAX", default_value_t = 7, value_name = "N")]
    pub log_files_max: usize,
    /// Log lines that may wait to be written; further ones are dropped and counted
    #[arg(long, env = "HEARTH_LOG_LINES_MAX", default_value_t = 4096, value_name = "N")]
    pub log_lines_max: usize,
    /// A request that takes longer is logged as a warning
    #[arg(long, env = "HEARTH_LOG_SLOW_REQUEST", default_value = "1s", value_name = "TIME", value_parser = duration)]
    pub log_slow_request: Duration,

    /// How often a leader sends a heartbeat
    #[arg(long, env = "HEARTH_RAFT_HEARTBEAT_INTERVAL", default_value = "100ms", value_name = "TIME", value_parser = duration)]
    pub raft_heartbeat_interval: Duration,
    /// Shortest election timeout
    #[arg(long, env = "HEARTH_RAFT_ELECTION_TIMEOUT_MIN", default_value = "300ms", value_name = "TIME", value_parser = duration)]
    pub raft_election_timeout_min: Duration,
    /// Longest election timeout, and how long followers stay loyal to a silent leader before an
    /// election timeout begins: a leader is replaced after the sum of both
    #[arg(long, env = "HEARTH_RAFT_ELECTION_TIMEOUT_MAX", default_value = "600ms", value_name = "TIME", value_parser = duration)]
    pub raft_election_timeout_max: Duration,
    /// Log entries kept behind a checkpoint, for followers that were away for a short time
    #[arg(long, env = "HEARTH_RAFT_LOG_KEEP_ENTRIES", default_value_t = 10_000, value_name = "N")]
    pub raft_log_keep_entries: u64,
    /// Bytes of log beyond which nothing is kept for a node that is catching up, or receives a snapshot
    #[arg(long, env = "HEARTH_RAFT_LOG_CATCH_UP_BYTES", default_value = "4GiB", value_name = "SIZE", value_parser = size)]
    pub raft_log_catch_up_bytes: ByteSize,
    /// Writes that a leader works on at once; further ones are refused as overloaded
    #[arg(long, env = "HEARTH_RAFT_PROPOSALS_MAX", default_value_t = 16_384, value_name = "N")]
    pub raft_proposals_max: usize,

    /// Bytes of keys, values, names and ages that the store may hold; it has to fit in memory
    #[arg(long, env = "HEARTH_STORAGE_DATA_BYTES_MAX", default_value = "4GiB", value_name = "SIZE", value_parser = size)]
    pub storage_data_bytes_max: ByteSize,
    /// Free bytes on the disk of data_dir below which the data may not grow; deletes still work
    #[arg(long, env = "HEARTH_STORAGE_DISK_FREE_MIN", default_value = "256MiB", value_name = "SIZE", value_parser = size)]
    pub storage_disk_free_min: ByteSize,
    /// How long an fsync of the log may take; a leader that waits longer hands over, and the node is not
    /// ready meanwhile. At least raft.election_timeout_max: a hand-over costs about as much as it
    #[arg(long, env = "HEARTH_STORAGE_STALL_TIMEOUT", default_value = "2s", value_name = "TIME", value_parser = duration)]
    pub storage_stall_timeout: Duration,
    /// Log entries after which the state is written to disk and the log can shrink
    #[arg(long, env = "HEARTH_STORAGE_CHECKPOINT_ENTRIES", default_value_t = 500_000, value_name = "N")]
    pub storage_checkpoint_entries: u64,
    /// The same, in bytes of log
    #[arg(long, env = "HEARTH_STORAGE_CHECKPOINT_BYTES", default_value = "256MiB", value_name = "SIZE", value_parser = size)]
    pub storage_checkpoint_bytes: ByteSize,
    /// Time after which any change is written to disk as a checkpoint
    #[arg(long, env = "HEARTH_STORAGE_CHECKPOINT_INTERVAL", default_value = "60s", value_name = "TIME", value_parser = duration)]
    pub storage_checkpoint_interval: Duration,

    /// How long the answer to a write with an Idempotency-Key is kept
    #[arg(long, env = "HEARTH_IDEMPOTENCY_WINDOW", default_value = "10m", value_name = "TIME", value_parser = duration)]
    pub idempotency_window: Duration,
    /// How many such answers are kept, about 230 bytes of memory each; with more the oldest leave early
    #[arg(long, env = "HEARTH_IDEMPOTENCY_KEYS_MAX", default_value_t = 1_000_000, value_name = "N")]
    pub idempotency_keys_max: u64,

    /// Watch streams open at once; further ones get 429. To be well below http_connections_max: each takes a
    /// connection
    #[arg(long, env = "HEARTH_WATCH_STREAMS_MAX", default_value_t = 16_384, value_name = "N")]
    pub watch_streams_max: usize,
    /// The newest changes of keys that are kept for watchers, to resume after and to be slow in
    #[arg(long, env = "HEARTH_WATCH_HISTORY_EVENTS", default_value_t = 65_536, value_name = "N")]
    pub watch_history_events: usize,
    /// Bytes of those, values included; they lie in memory, where the newest values are shared with the store
    #[arg(long, env = "HEARTH_WATCH_HISTORY_BYTES", default_value = "16MiB", value_name = "SIZE", value_parser = size)]
    pub watch_history_bytes: ByteSize,
    /// How long a watch stream is quiet before it says that it is still there
    #[arg(long, env = "HEARTH_WATCH_HEARTBEAT_INTERVAL", default_value = "15s", value_name = "TIME", value_parser = duration)]
    pub watch_heartbeat_interval: Duration,

    /// How much of one core computing ahead may take for each endpoint, in percent, 1 to 100
    #[arg(long, env = "HEARTH_COMPUTE_POOL_CPU_PERCENT", default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub compute_pool_cpu_percent: u32,
    /// Threads that compute /cpu
    #[arg(long, env = "HEARTH_COMPUTE_CPU_THREADS", default_value_t = default_threads(), value_name = "N")]
    pub compute_cpu_threads: usize,
    /// Sums of /cpu that may be waited for at once, those of ?count=N counted each; further requests get 429
    #[arg(long, env = "HEARTH_COMPUTE_CPU_WAITING_MAX", default_value_t = 16_384, value_name = "N")]
    pub compute_cpu_waiting_max: usize,
    /// Sums of /cpu that are computed ahead and kept ready; 0 computes each when it is asked for
    #[arg(long, env = "HEARTH_COMPUTE_CPU_POOL", default_value_t = 10_240, value_name = "N", value_parser = pool_size)]
    pub compute_cpu_pool: usize,
    /// How old such a sum may be when it is handed out
    #[arg(long, env = "HEARTH_COMPUTE_CPU_POOL_AGE", default_value = "5m", value_name = "TIME", value_parser = duration)]
    pub compute_cpu_pool_age: Duration,
    /// Absolute path of what /local_program runs [default: the shipped very_important_value]
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_PATH", value_name = "FILE")]
    pub compute_local_program_path: Option<PathBuf>,
    /// Its arguments; give the key once for each
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_ARGS", value_name = "ARG", allow_hyphen_values = true)]
    pub compute_local_program_args: Vec<String>,
    /// Its environment, which is empty otherwise; give the key once for each variable
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_ENV", value_name = "NAME=VALUE", value_parser = variable)]
    pub compute_local_program_env: Vec<Variable>,
    /// Its working directory
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_WORKING_DIR", default_value = "/", value_name = "DIR")]
    pub compute_local_program_working_dir: PathBuf,
    /// How long it may run; then it is killed with everything it started
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub compute_local_program_timeout: Duration,
    /// How many may run at once
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_RUNNING_MAX", default_value_t = 256, value_name = "N")]
    pub compute_local_program_running_max: usize,
    /// How many requests may wait for it; further ones get 429
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_WAITING_MAX", default_value_t = 1024, value_name = "N")]
    pub compute_local_program_waiting_max: usize,
    /// Bytes of output that are kept for the debug log; more is read and thrown away, and 1,024 times
    /// as much gets it killed
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_OUTPUT_BYTES_MAX", default_value = "64KiB", value_name = "SIZE", value_parser = size)]
    pub compute_local_program_output_bytes_max: ByteSize,
    /// Bytes of memory that each of its processes may have to write in (RLIMIT_DATA)
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_MEMORY_BYTES_MAX", default_value = "1GiB", value_name = "SIZE", value_parser = size)]
    pub compute_local_program_memory_bytes_max: ByteSize,
    /// Descriptors that each of its processes may have open (RLIMIT_NOFILE)
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_FILES_MAX", default_value_t = 256, value_name = "N")]
    pub compute_local_program_files_max: u64,
    /// Bytes of the largest file that it may write (RLIMIT_FSIZE)
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_FILE_BYTES_MAX", default_value = "64MiB", value_name = "SIZE", value_parser = size)]
    pub compute_local_program_file_bytes_max: ByteSize,
    /// Exit statuses of runs made ahead, before anybody asks; 0 runs it only when it is asked for
    /// [default: 16 for the shipped program, 0 for another one: it may do more than exit]
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_POOL", value_name = "N", value_parser = pool_size)]
    pub compute_local_program_pool: Option<usize>,
    /// How long ago such a run may have ended when its status is handed out
    #[arg(long, env = "HEARTH_COMPUTE_LOCAL_PROGRAM_POOL_AGE", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub compute_local_program_pool_age: Duration,
}

/// `NAME=VALUE` of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Before the first `=`.
    pub name: String,
    /// After it.
    pub value: String,
}

/// The value of `initial_cluster`: names and peer addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster(pub Vec<Member>);

impl FromStr for InitialCluster {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let member = |item: &str| {
            let (name_part, peer) =
                item.split_once('=').ok_or_else(|| format!("{item:?} is not NAME=HOST:PORT"))?;
            Ok(Member { name: name(name_part.trim())?, peer: address(peer.trim())? })
        };
        let members: Vec<Member> = list.split(',').map(member).collect::<Result<_, String>>()?;
        for (position, member) in members.iter().enumerate() {
            if members[..position].iter().any(|other| other.name == member.name) {
                return Err(format!("{} is listed twice", member.name));
            }
            if let Some(other) = members[..position].iter().find(|other| other.peer == member.peer) {
                return Err(format!("{} and {} have the same address", other.name, member.name));
            }
        }
        Ok(Self(members))
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<String> =
            self.0.iter().map(|member| format!("{}={}", member.name, member.peer)).collect();
        f.write_str(&items.join(","))
    }
}

impl Settings {
    /// What no single key can check. The text names the key.
    pub(super) fn check(&self) -> Result<(), String> {
        let least = [
            ("request_timeout", self.request_timeout),
            ("http.header_timeout", self.http_header_timeout),
            ("http.body_timeout", self.http_body_timeout),
            ("http.write_timeout", self.http_write_timeout),
            ("http.idle_timeout", self.http_idle_timeout),
            ("http.waiting_timeout", self.http_waiting_timeout),
            ("storage.checkpoint_interval", self.storage_checkpoint_interval),
            ("idempotency.window", self.idempotency_window),
            ("watch.heartbeat_interval", self.watch_heartbeat_interval),
            ("compute.local_program.timeout", self.compute_local_program_timeout),
            ("compute.cpu.pool_age", self.compute_cpu_pool_age),
            ("compute.local_program.pool_age", self.compute_local_program_pool_age),
        ];
        for (key, value) in least {
            if value < Duration::from_millis(10) {
                return Err(format!("{key}: {value:?} is less than 10ms"));
            }
        }
        let positive = [
            ("http.connections_max", self.http_connections_max as u64),
            ("http.headers_max", self.http_headers_max as u64),
            ("http.writes_max", self.http_writes_max as u64),
            ("http.reads_max", self.http_reads_max as u64),
            ("http.buffer_bytes_max", self.http_buffer_bytes_max.as_u64()),
            ("log.lines_max", self.log_lines_max as u64),
            ("raft.proposals_max", self.raft_proposals_max as u64),
            ("storage.checkpoint_entries", self.storage_checkpoint_entries),
            ("idempotency.keys_max", self.idempotency_keys_max),
            ("watch.streams_max", self.watch_streams_max as u64),
            ("watch.history_events", self.watch_history_events as u64),
            ("watch.history_bytes", self.watch_history_bytes.as_u64()),
            ("storage.checkpoint_bytes", self.storage_checkpoint_bytes.as_u64()),
            ("compute.cpu.threads", self.compute_cpu_threads as u64),
            ("compute.cpu.waiting_max", self.compute_cpu_waiting_max as u64),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(format!("{key}: must be at least 1"));
            }
        }
        // hyper and every client need some room; more than this is an attack, or a mistake.
        let (head, uri) = (self.http_head_bytes_max.as_u64(), self.http_uri_bytes_max.as_u64());
        if !(1024..=1024 * 1024).contains(&head) {
            return Err("http.head_bytes_max: must be 1KiB to 1MiB".to_owned());
        }
        if uri > head || uri > 65_534 {
            return Err("http.uri_bytes_max: must be at most http.head_bytes_max, and 65534".to_owned());
        }
        if self.log_files_max < 2 {
            return Err("log.files_max: must be at least 2, today's file and one before it".to_owned());
        }
        let (min, max) = (self.raft_election_timeout_min, self.raft_election_timeout_max);
        if self.raft_heartbeat_interval < Duration::from_millis(10) || self.raft_heartbeat_interval * 2 > min
        {
            return Err(format!(
                "raft.heartbeat_interval: {:?} is not between 10ms and half of raft.election_timeout_min, {min:?}",
                self.raft_heartbeat_interval
            ));
        }
        if min >= max {
            return Err(format!(
                "raft.election_timeout_max: {max:?} is not above raft.election_timeout_min, {min:?}"
            ));
        }
        if self.storage_stall_timeout < max {
            return Err(format!(
                "storage.stall_timeout: {:?} is below raft.election_timeout_max, {max:?}",
                self.storage_stall_timeout
            ));
        }
        if let Some(listed) = self.listed() {
            if listed.name != self.name {
                return Err(format!("initial_cluster: it does not list this node, {}", self.name));
            }
            if self.peer_advertise.as_ref().is_some_and(|advertised| *advertised != listed.peer) {
                return Err(format!("peer_advertise: initial_cluster has {} for this node", listed.peer));
            }
        }
        for (key, listen) in [("http_listen", &self.http_listen), ("peer_listen", &self.peer_listen)] {
            self.check_exposure(key, listen)?;
        }
        Ok(())
    }

    /// This node's entry in `initial_cluster`; the first one when it is missing there.
    fn listed(&self) -> Option<&Member> {
        let members = &self.initial_cluster.as_ref()?.0;
        members.iter().find(|member| member.name == self.name).or(members.first())
    }

    /// Loopback without authentication is the only open default.
    fn check_exposure(&self, key: &str, listen: &str) -> Result<(), String> {
        let mut addresses = listen.to_socket_addrs().map_err(|error| format!("{key}: {listen}: {error}"))?;
        if addresses.all(|address| address.ip().is_loopback()) {
            return Ok(());
        }
        let mut missing = Vec::new();
        if !self.insecure {
            missing.push("insecure (there is no TLS yet)");
        }
        if !self.no_auth {
            missing.push("no_auth (there are no tokens yet)");
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{key}: {listen} is reachable from outside this machine; if that is meant, set {}",
            missing.join(" and ")
        ))
    }

    /// The members that an empty node forms a cluster with.
    pub fn initial_members(&self) -> Vec<Member> {
        match &self.initial_cluster {
            Some(list) => list.0.clone(),
            None => vec![Member {
                name: self.name.clone(),
                peer: self.peer_advertise.clone().unwrap_or_else(|| self.peer_listen.clone()),
            }],
        }
    }
}

/// 1..=64 of letters, digits, dot, dash, underscore: fit for lists, labels and file names.
fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if (1..=64).contains(&text.len()) && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not 1 to 64 letters, digits, dots, dashes and underscores"))
}

/// `host:port` with a host name, an IPv4 address, or an IPv6 address in brackets.
fn address(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not HOST:PORT (an IPv6 address goes in brackets)");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || port.parse::<u16>().is_err() || (host.contains(':') && !bracketed) {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 500ms or 5s"))
}

fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|error| format!("{error}; write it like 64MiB, or as plain bytes"))
}

/// `*`, or an origin as browsers send it: `scheme://host[:port]`, in lower case, without a path.
fn origin(text: &str) -> Result<String, String> {
    let plain = |host: &str| {
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
            && !host.contains(['/', '?', '#', '@', ','])
    };
    match text.split_once("://") {
        Some((scheme, host)) if plain(scheme) && plain(host) => Ok(text.to_owned()),
        None if text == "*" => Ok(text.to_owned()),
        _ => Err("must be * or like https://app.example, in lower case and without a path".to_owned()),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be text or json".to_owned()),
    }
}

fn variable(text: &str) -> Result<Variable, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok(Variable { name: name.to_owned(), value: value.to_owned() })
        }
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

/// A number of results small enough to have room for all of them.
fn pool_size(text: &str) -> Result<usize, String> {
    const MAX: usize = 1_000_000;
    let size = text.parse::<usize>().ok().filter(|size| *size <= MAX);
    size.ok_or_else(|| format!("must be a number from 0 to {MAX}"))
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
