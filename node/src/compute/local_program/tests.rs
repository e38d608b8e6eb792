//! Real programs: shell scripts, mostly. Nothing sleeps to be lucky; what takes time is waited for, with a
//! bound.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::test_kill_process;
use tempfile::TempDir;

use super::*;
use crate::compute::pool::PoolConfig;

/// How long a condition may take to come true: far longer than it does.
const BOUND: Duration = Duration::from_secs(20);

fn config(program: impl Into<PathBuf>, args: &[&str]) -> LocalProgramConfig {
    LocalProgramConfig {
        program: program.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        working_dir: "/".into(),
        timeout: BOUND,
        running_max: 4,
        waiting_max: 4,
        output_bytes_max: 1024,
        memory_bytes_max: 1 << 30,
        files_max: 256,
        file_bytes_max: 1 << 20,
        pool: PoolConfig::OFF,
    }
}

/// A shell that runs `script`.
fn shell(script: &str) -> LocalProgramConfig {
    config("/bin/sh", &["-c", script])
}

/// What a test looks at.
struct Subject {
    program: LocalProgram,
    registry: Registry,
}

impl Subject {
    fn new(config: LocalProgramConfig) -> Self {
        let registry = Registry::new();
        let metrics = ComputeMetrics::register(&registry).unwrap();
        Self { program: LocalProgram::new(config, &registry, &metrics).unwrap(), registry }
    }

    async fn answer(&self) -> Result<Answer<u8>, LocalProgramError> {
        tokio::time::timeout(BOUND, self.program.run()).await.expect("no answer")
    }

    async fn run(&self) -> Result<u8, LocalProgramError> {
        self.answer().await.map(|answer| answer.value)
    }

    /// The value of a metric, given as the text format shows it.
    fn metric(&self, name: &str) -> u64 {
        let text = hearth_monitoring::registry::encode(&self.registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    fn exits(&self, outcome: &str) -> u64 {
        self.metric(&format!("hearth_local_program_exits_total{{outcome=\"{outcome}\"}}"))
    }

    async fn idle(&self) {
        until("nothing runs", || self.metric("hearth_local_program_running") == 0).await;
    }
}

/// Waits until `condition` holds, looking every few milliseconds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The process id that a script has written into `file`, once it is there whole.
async fn written_pid(file: &Path) -> Pid {
    let pid = || fs::read_to_string(file).ok()?.strip_suffix('\n')?.parse().ok().and_then(Pid::from_raw);
    until("the script writes its process id", || pid().is_some()).await;
    pid().unwrap()
}

/// Whether the process exists and is not a zombie.
fn alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    // "pid (name) state …"; the name may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Whether the process id is taken, by a zombie at least.
fn exists(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

/// A script that writes its process id to `leader` and that of a child in the background to `child`, then
/// does as `then` says. The child holds standard output open and would live for minutes.
fn forking(dir: &TempDir, then: &str) -> (LocalProgramConfig, PathBuf, PathBuf) {
    let (leader, child) = (dir.path().join("leader"), dir.path().join("child"));
    let script = format!(
        "/bin/sleep 300 & echo $! > {child}; echo $$ > {leader}; {then}",
        child = child.display(),
        leader = leader.display()
    );
    (shell(&script), leader, child)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exit_status_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("status");
    let subject = Subject::new(shell(&format!("read status < {}; exit $status", file.display())));
    for status in 0..=u8::MAX {
        fs::write(&file, format!("{status}\n")).unwrap();
        assert_eq!(subject.run().await.unwrap(), status);
    }
    assert_eq!(subject.exits("ok"), 256);
    subject.idle().await;
}

#[tokio::test]
async fn what_cannot_be_started_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    use LocalProgramError::{Missing, NotExecutable, WorkingDir};
    let absent = dir.path().join("absent");
    let error = Subject::new(config(&absent, &[])).run().await.unwrap_err();
    assert!(matches!(&error, Missing { path, .. } if *path == absent), "{error}");
    assert!(error.to_string().starts_with(&format!("{} does not exist", absent.display())), "{error}");

    let error = Subject::new(config(script("a", "#!/no/such/shell\n", 0o755), &[])).run().await.unwrap_err();
    assert!(matches!(error, Missing { .. }), "{error}");
    let error = Subject::new(config(script("b", "#!/bin/sh\n", 0o644), &[])).run().await.unwrap_err();
    assert!(matches!(error, NotExecutable { .. }), "{error}");
    // No shell takes it for a script.
    let error = Subject::new(config(script("c", "exit 7\n", 0o755), &[])).run().await.unwrap_err();
    assert!(matches!(error, NotExecutable { .. }), "{error}");
    let error = Subject::new(config(dir.path(), &[])).run().await.unwrap_err();
    assert!(matches!(error, NotExecutable { .. }), "{error}");

    let elsewhere = Subject::new(LocalProgramConfig { working_dir: absent.clone(), ..shell("exit 0") });
    let error = elsewhere.run().await.unwrap_err();
    assert!(matches!(&error, WorkingDir { path, .. } if *path == absent), "{error}");
    assert_eq!(elsewhere.exits("spawn_error"), 1);
    elsewhere.idle().await;
}

#[test]
fn bad_settings_name_their_key() {
    let good = shell("exit 0");
    let zero = "\0".to_owned();
    let table = [
        (LocalProgramConfig { program: "sh".into(), ..good.clone() }, "path"),
        (LocalProgramConfig { program: "".into(), ..good.clone() }, "path"),
        (LocalProgramConfig { working_dir: ".".into(), ..good.clone() }, "working_dir"),
        (LocalProgramConfig { args: vec![zero.clone()], ..good.clone() }, "args"),
        (LocalProgramConfig { env: vec![("A=B".to_owned(), String::new())], ..good.clone() }, "env"),
        (LocalProgramConfig { env: vec![(String::new(), String::new())], ..good.clone() }, "env"),
        (LocalProgramConfig { env: vec![("A".to_owned(), zero)], ..good.clone() }, "env"),
        (LocalProgramConfig { timeout: Duration::ZERO, ..good.clone() }, "timeout"),
        (LocalProgramConfig { running_max: 0, ..good.clone() }, "running_max"),
        (LocalProgramConfig { waiting_max: usize::MAX, ..good.clone() }, "waiting_max"),
        (LocalProgramConfig { pool: pool(1), running_max: 3, ..good.clone() }, "pool"),
        (LocalProgramConfig { output_bytes_max: 0, ..good }, "output_bytes_max"),
    ];
    for (config, key) in table {
        let registry = Registry::new();
        let metrics = ComputeMetrics::register(&registry).unwrap();
        let error = LocalProgram::new(config, &registry, &metrics).err().unwrap().to_string();
        assert!(error.starts_with(&format!("compute.local_program.{key}: ")), "{error}");
    }
}

#[tokio::test]
async fn the_program_sees_nothing_but_what_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = format!(
        "{{ /usr/bin/tr '\\0' '\\n' < /proc/$$/environ; echo \"args $# $1 $2\"; /bin/pwd; \
         /usr/bin/cut -d' ' -f5,19,41 /proc/$$/stat; echo $$; }} > {}",
        out.display()
    );
    let ours = fs::read_to_string("/proc/self/stat").unwrap();
    let nice: i32 = ours.split(' ').nth(18).unwrap().parse().unwrap();
    let mut config = shell(&script);
    config.args.extend(["sh".to_owned(), "$HOME".to_owned(), "; exit 9".to_owned()]);
    for env in [vec![], vec![("A".to_owned(), "b c".to_owned())]] {
        let environment = if env.is_empty() { "" } else { "A=b c\n" };
        let subject =
            Subject::new(LocalProgramConfig { env, working_dir: dir.path().into(), ..config.clone() });
        assert_eq!(subject.run().await.unwrap(), 0);
        let seen = fs::read_to_string(&out).unwrap();
        let pid = seen.lines().last().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        // The group is the program's own.
        let wanted = format!(
            "{environment}args 2 $HOME ; exit 9\n{dir}\n{pid} {nice} {policy}\n{pid}\n",
            dir = dir.display(),
            nice = nice + NICENESS,
            policy = libc::SCHED_IDLE,
        );
        assert_eq!(seen, wanted);
    }
}

#[tokio::test]
async fn no_descriptor_is_inherited() {
    use std::os::fd::AsFd;
    let _file = fs::File::open("/").unwrap();
    let _pair = std::os::unix::net::UnixStream::pair().unwrap();
    // As from whoever started this process: without close-on-exec.
    let _leak = rustix::io::dup(fs::File::open("/").unwrap().as_fd()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    // The pattern also finds the descriptor by which the shell lists the directory, which is gone by then.
    let script = format!("exec > {}; /bin/readlink /proc/$$/fd/*; exit 0", out.display());
    assert_eq!(Subject::new(shell(&script)).run().await.unwrap(), 0);
    let seen = fs::read_to_string(&out).unwrap();
    let mut targets: Vec<&str> = seen.lines().collect();
    targets.sort_unstable();
    let [input, output, pipe] = targets.as_slice() else { panic!("{seen}") };
    assert_eq!((*input, Path::new(output)), ("/dev/null", out.as_path()));
    assert!(pipe.starts_with("pipe:"), "{seen}");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_what_it_forked() {
    let dir = tempfile::tempdir().unwrap();
    let (config, leader, child) = forking(&dir, "wait");
    // Long enough for the script to write its files: it is waited for.
    let subject = Subject::new(LocalProgramConfig { timeout: Duration::from_secs(2), ..config });
    let (answer, (leader, child)) = tokio::join!(subject.run(), async {
        let pids = (written_pid(&leader).await, written_pid(&child).await);
        assert!(alive(pids.0) && alive(pids.1));
        pids
    });
    let error = answer.unwrap_err();
    assert!(
        matches!(error, LocalProgramError::Timeout { after } if after == Duration::from_secs(2)),
        "{error}"
    );
    until("both are dead", || !alive(leader) && !alive(child)).await;
    until("the program is reaped", || !exists(leader)).await;
    assert_eq!(subject.exits("timeout"), 1);
    subject.idle().await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_does_not_delay_the_answer_and_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (config, leader, child) = forking(&dir, "exit 42");
    let subject = Subject::new(config);
    assert_eq!(subject.run().await.unwrap(), 42);
    let (leader, child) = (written_pid(&leader).await, written_pid(&child).await);
    assert!(!exists(leader));
    until("the forked process is dead", || !alive(child)).await;
}

#[tokio::test]
async fn a_dropped_future_kills_and_reaps() {
    let dir = tempfile::tempdir().unwrap();
    let (config, leader, child) = forking(&dir, "wait");
    let subject = Subject::new(config);
    let caller = tokio::spawn({
        let program = subject.program.clone();
        async move { program.run().await }
    });
    let (leader, child) = (written_pid(&leader).await, written_pid(&child).await);
    assert_eq!(subject.metric("hearth_local_program_running"), 1);
    caller.abort();
    until("both are dead", || !alive(leader) && !alive(child)).await;
    until("the program is reaped", || !exists(leader)).await;
    subject.idle().await;
    assert_eq!(subject.exits("cancelled"), 1);
}

#[test]
fn a_stopped_runtime_kills_and_reaps() {
    let dir = tempfile::tempdir().unwrap();
    let (config, leader, child) = forking(&dir, "wait");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (leader, child) = runtime.block_on(async {
        let program = Subject::new(config).program;
        tokio::spawn(async move { program.run().await });
        (written_pid(&leader).await, written_pid(&child).await)
    });
    drop(runtime);
    assert!(!exists(leader));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(until("the forked process is dead", || !alive(child)));
}

#[tokio::test]
async fn output_is_read_and_discarded() {
    // Far more than a pipe holds and than is kept, on both streams.
    let script = "/usr/bin/head -c 300000 /dev/zero; /usr/bin/head -c 300000 /dev/zero >&2; exit 3";
    let subject = Subject::new(shell(script));
    assert_eq!(subject.run().await.unwrap(), 3);
}

#[tokio::test]
async fn a_program_that_writes_without_end_is_killed() {
    let subject =
        Subject::new(shell("echo $$; while :; do echo 0123456789012345678901234567890123456789; done"));
    let error = subject.run().await.unwrap_err();
    assert!(matches!(error, LocalProgramError::Flood { bytes } if bytes == 1024 * 1024), "{error}");
    subject.idle().await;
    assert_eq!(subject.exits("flood"), 1);
}

#[tokio::test]
async fn a_program_that_closes_its_output_is_waited_for() {
    let subject = Subject::new(shell("exec >&- 2>&-; read line < /proc/self/stat; exit 5"));
    assert_eq!(subject.run().await.unwrap(), 5);
}

#[tokio::test]
async fn death_by_signal_is_not_an_exit_status() {
    for signal in [6, 9, 11, 15] {
        let subject = Subject::new(shell(&format!("kill -{signal} $$")));
        let error = subject.run().await.unwrap_err();
        assert!(matches!(error, LocalProgramError::Signal { signal: seen } if seen == signal), "{error}");
        assert_eq!(subject.exits("signal"), 1);
    }
}

#[tokio::test]
async fn beyond_the_limits_callers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, runs) = (dir.path().join("lock"), dir.path().join("runs"));
    // Each run adds a line, and ends when the file is there.
    let script = format!(
        "echo >> {}; until [ -e {} ]; do /bin/sleep 0.01; done; exit 8",
        runs.display(),
        lock.display()
    );
    let subject = Subject::new(LocalProgramConfig { running_max: 2, waiting_max: 3, ..shell(&script) });
    let call = || {
        let program = subject.program.clone();
        tokio::spawn(async move { program.run().await })
    };
    let callers: Vec<_> = (0..5).map(|_| call()).collect();
    let begun = || fs::read_to_string(&runs).unwrap_or_default().len();
    until("two run", || begun() == 2).await;
    let error = subject.run().await.unwrap_err();
    let LocalProgramError::Overloaded { retry_after } = error else { panic!("{error}") };
    assert!(retry_after >= Duration::from_secs(1));
    assert_eq!(subject.metric("hearth_local_program_running"), 2);
    assert_eq!(begun(), 2);

    // A waiting caller that goes away makes room for another.
    callers[4].abort();
    until("it is gone", || subject.exits("cancelled") == 1).await;
    let another = call();
    fs::write(&lock, "").unwrap();
    for caller in callers.into_iter().take(4).chain([another]) {
        assert_eq!(caller.await.unwrap().unwrap().value, 8);
    }
    assert_eq!((subject.exits("overloaded"), subject.exits("ok"), begun()), (1, 5, 5));
    subject.idle().await;
}

fn pool(size: usize) -> PoolConfig {
    PoolConfig { size, age_max: Duration::from_secs(3600), cpu_percent: 100 }
}

const READY: &str = "hearth_compute_pool_ready{endpoint=\"local_program\"}";

#[tokio::test]
async fn programs_run_ahead_and_each_status_is_handed_out_once() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    // The n-th run exits with n.
    let script = format!("echo >> {runs}; exit $(/usr/bin/wc -l < {runs})", runs = runs.display());
    // One at a time, so that no two count the same.
    let subject = Subject::new(LocalProgramConfig { pool: pool(3), running_max: 4, ..shell(&script) });
    until("three are ready", || subject.metric(READY) == 3).await;
    for wanted in 1..=3 {
        let answer = subject.answer().await.unwrap();
        assert_eq!(answer, Answer { value: wanted, source: Source::Pool });
    }
    // Drained, it is filled again.
    until("three are ready again", || subject.metric(READY) == 3).await;
    assert_eq!(subject.answer().await.unwrap().source, Source::Pool);
    let source = "hearth_compute_source_total{endpoint=\"local_program\",source=\"pool\"}";
    assert_eq!(subject.metric(source), 4);
}

#[tokio::test]
async fn programs_that_run_ahead_are_nicer_and_few() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, seen) = (dir.path().join("lock"), dir.path().join("seen"));
    let script = format!(
        "/usr/bin/cut -d' ' -f19 /proc/$$/stat >> {}; until [ -e {} ]; do /bin/sleep 0.01; done; exit 8",
        seen.display(),
        lock.display()
    );
    let subject = Subject::new(LocalProgramConfig { pool: pool(100), running_max: 8, ..shell(&script) });
    let lines = || fs::read_to_string(&seen).unwrap_or_default().lines().count();
    until("two run ahead", || lines() == 2).await;
    // Callers are not kept waiting: six more run at once.
    let call = || {
        let program = subject.program.clone();
        tokio::spawn(async move { program.run().await })
    };
    let callers: Vec<_> = (0..6).map(|_| call()).collect();
    until("eight run", || lines() == 8).await;
    let niceness = fs::read_to_string(&seen).unwrap();
    let niceness: Vec<&str> = niceness.lines().collect();
    assert_eq!(niceness.iter().filter(|nice| **nice == "19").count(), 2, "{niceness:?}");
    fs::write(&lock, "").unwrap();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), Answer { value: 8, source: Source::Live });
    }
}

#[tokio::test]
async fn what_fails_ahead_is_not_handed_out() {
    let subject = Subject::new(LocalProgramConfig { pool: pool(3), ..shell("kill -9 $$") });
    until("one has failed", || subject.exits("signal") >= 1).await;
    let error = subject.run().await.unwrap_err();
    assert!(matches!(error, LocalProgramError::Signal { signal: 9 }), "{error}");
    assert_eq!(subject.metric(READY), 0);
}

#[tokio::test]
async fn what_runs_ahead_ends_with_the_last_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (config, leader, child) = forking(&dir, "wait");
    let subject = Subject::new(LocalProgramConfig { pool: pool(1), ..config });
    let (leader, child) = (written_pid(&leader).await, written_pid(&child).await);
    assert!(alive(leader) && alive(child));
    drop(subject);
    until("both are dead", || !alive(leader) && !alive(child)).await;
}

#[tokio::test]
async fn limits_are_set() {
    // They are set when the program has begun: it looks until it sees them.
    let script = "until [ \"$(ulimit -n) $(ulimit -d) $(ulimit -f) $(ulimit -c)\" = '77 524288 2048 0' ]; \
                  do /bin/sleep 0.01; done; exit 6";
    let limits = LocalProgramConfig {
        memory_bytes_max: 512 << 20,
        files_max: 77,
        file_bytes_max: 1 << 20,
        ..shell(script)
    };
    assert_eq!(Subject::new(limits).run().await.unwrap(), 6);
}

/// Names a directory for [`first_process`]; its presence makes that the process that adopts orphans.
const ADOPT: &str = "HEARTH_TEST_ADOPT";

/// Not a test of its own: what [`orphans_are_reaped_by_a_first_process`] starts. Adopting orphans is an
/// attribute of the whole process, and other tests run in this one.
#[tokio::test]
async fn first_process() {
    let Some(dir) = std::env::var_os(ADOPT) else { return };
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let child = Path::new(&dir).join("child");
    let script = format!("(/bin/sleep 300 & echo $! > {}); exit 42", child.display());
    let subject = Subject::new(shell(&script));
    assert_eq!(subject.run().await.unwrap(), 42);
    let child = written_pid(&child).await;
    until("the orphan is reaped", || !exists(child)).await;
    // Nobody else could have reaped it, and nothing is left.
    assert!(rustix::process::wait(rustix::process::WaitOptions::NOHANG).is_err());
}

#[test]
fn orphans_are_reaped_by_a_first_process() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("{}::first_process", module_path!().split_once("::").unwrap().1);
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name])
        .env(ADOPT, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// `cargo test --release -p hearth-node --lib local_program -- --ignored --nocapture`, after
/// `cargo build --release -p hearth-node`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn programs_per_second() {
    const RUNS: u32 = 8000;
    const CALLERS: u32 = 32;
    let lock = tempfile::NamedTempFile::new().unwrap();
    // target/release/deps/<this test> → target/release/very_important_value
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("very_important_value");
    let config = config(program, &[lock.path().to_str().unwrap()]);
    let subject = Subject::new(LocalProgramConfig { running_max: 32, ..config });
    let start = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let program = subject.program.clone();
            tokio::spawn(async move {
                for _ in 0..RUNS / CALLERS {
                    assert!(program.run().await.unwrap().value < 100);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    println!("{:.0} programs a second", f64::from(RUNS) / start.elapsed().as_secs_f64());
}
