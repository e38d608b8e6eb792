use std::sync::Mutex;

use serde_json::Value;
use tracing::{error, info, info_span, warn};

use super::*;

/// Standard output for a test.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn config(format: LogFormat) -> LogConfig {
    LogConfig {
        level: "info".to_owned(),
        format,
        dir: None,
        files_max: 2,
        lines_max: 1000,
        node: "n1".to_owned(),
        colour: false,
    }
}

/// What standard output shows after `events`.
fn shown(config: &LogConfig, events: impl FnOnce()) -> String {
    let screen = Screen::default();
    let (dispatch, guard) = assemble(config, screen.clone()).unwrap();
    tracing::dispatcher::with_default(&dispatch, events);
    drop(guard);
    screen.text()
}

fn parsed(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn json_lines_are_flat() {
    let lines = parsed(&shown(&config(LogFormat::Json), || {
        info!(target: "hearth::http", request_id = "r-1", status = 200u16, took = 0.25, ok = true, "done {}", 1);
    }));
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let timestamp = line["timestamp"].as_str().unwrap();
    // 2026-01-31T12:34:56.789012Z
    assert_eq!((timestamp.len(), &timestamp[10..11], &timestamp[26..]), (27, "T", "Z"), "{timestamp}");
    let mut rest = line.clone();
    rest.as_object_mut().unwrap().remove("timestamp");
    let wanted = serde_json::json!({
        "level": "INFO", "target": "hearth::http", "node": "n1", "message": "done 1",
        "request_id": "r-1", "status": 200, "took": 0.25, "ok": true,
    });
    assert_eq!(rest, wanted);
}

#[test]
fn fields_of_spans_come_along_and_the_innermost_wins() {
    let lines = parsed(&shown(&config(LogFormat::Json), || {
        let outer = info_span!("request", request_id = "r-1", key = "outer", late = tracing::field::Empty);
        let _outer = outer.enter();
        let _inner = info_span!("inner", key = "inner").entered();
        outer.record("late", 7);
        info!("one");
        info!(key = "event", "two");
    }));
    assert_eq!(lines[0]["request_id"], "r-1");
    assert_eq!(lines[0]["key"], "inner");
    assert_eq!(lines[0]["late"], 7);
    assert_eq!(lines[1]["key"], "event");
}

#[test]
fn a_field_cannot_replace_what_every_line_has() {
    let text = shown(&config(LogFormat::Json), || info!(node = "liar", level = 9, r#type = "t", "hello"));
    let lines = parsed(&text);
    assert_eq!(lines[0]["node"], "n1");
    assert_eq!(lines[0]["field_node"], "liar");
    assert_eq!(lines[0]["level"], "INFO");
    assert_eq!(lines[0]["field_level"], 9);
    assert_eq!(lines[0]["type"], "t");
    assert_eq!(text.matches("\"node\"").count(), 1);
}

#[test]
fn an_event_is_one_line_and_an_error_tells_its_causes() {
    let cause = io::Error::other(LogError::Stdout(io::Error::other("the\ncause")));
    let events = || {
        let cause: &(dyn std::error::Error + 'static) = &cause;
        error!(cause, "one\ntwo");
    };
    let json = shown(&config(LogFormat::Json), events);
    assert_eq!(json.lines().count(), 1);
    let value = &parsed(&json)[0];
    assert_eq!(value["message"], "one\ntwo");
    assert!(value["cause"].as_str().unwrap().ends_with("standard output: the\ncause: the\ncause"), "{value}");
    let text = shown(&config(LogFormat::Text), events);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(r"one\ntwo cause="), "{text}");
}

#[test]
fn text_names_the_node_and_is_coloured_on_request() {
    let events = || warn!(target: "hearth", key = "a b", n = 3, "hello there");
    let text = shown(&config(LogFormat::Text), events);
    assert_eq!(text[27..], *"  WARN n1 hearth: hello there key=\"a b\" n=3\n");
    let coloured = shown(&LogConfig { colour: true, ..config(LogFormat::Text) }, events);
    assert!(coloured.contains("\x1b[33m WARN\x1b[0m"), "{coloured:?}");
}

#[test]
fn the_level_filters_by_target() {
    let levels = LogConfig { level: "warn, quiet=off,loud=trace".to_owned(), ..config(LogFormat::Json) };
    let lines = parsed(&shown(&levels, || {
        info!("no");
        warn!("yes");
        error!(target: "quiet", "no");
        tracing::trace!(target: "loud", "yes");
    }));
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["message"] == "yes"));
}

#[test]
fn bad_settings_name_their_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let good = config(LogFormat::Json);
    let table = [
        (LogConfig { level: "inof".to_owned(), ..good.clone() }, "log.level: \"inof\""),
        (LogConfig { level: String::new(), ..good.clone() }, "log.level: \"\""),
        (LogConfig { level: "info,a=loud".to_owned(), ..good.clone() }, "log.level: "),
        (LogConfig { level: "info,a[b=c".to_owned(), ..good.clone() }, "log.level: "),
        (LogConfig { lines_max: 0, ..good.clone() }, "log.lines_max: "),
        (LogConfig { dir: Some(file.clone()), ..good.clone() }, "log.dir: "),
        (LogConfig { dir: Some(file.join("below")), ..good.clone() }, "log.dir: "),
        (LogConfig { dir: Some(dir.path().into()), files_max: 1, ..good }, "log.files_max: 1 "),
    ];
    for (config, wanted) in table {
        let error = assemble(&config, io::sink()).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
}

#[test]
fn files_are_json_daily_appended_to_and_limited_in_number() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("made/on/demand");
    let config = LogConfig { dir: Some(logs.clone()), ..config(LogFormat::Text) };
    shown(&config, || info!(request_id = "r-1", "first"));
    shown(&config, || info!("second"));
    let files: Vec<_> = fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let name = file.file_name().unwrap().to_str().unwrap();
    // hearthd.2026-01-31.log
    assert!(name.starts_with("hearthd.20") && name.ends_with(".log") && name.len() == 22, "{name}");
    let lines = parsed(&fs::read_to_string(file).unwrap());
    assert_eq!((&lines[0]["message"], &lines[0]["request_id"]), (&"first".into(), &"r-1".into()));
    assert_eq!((&lines[1]["message"], &lines[1]["node"]), (&"second".into(), &"n1".into()));

    for day in 1..=4 {
        fs::write(logs.join(format!("hearthd.2001-01-0{day}.log")), "").unwrap();
    }
    shown(&config, || info!("third"));
    let left = fs::read_dir(&logs).unwrap().count();
    assert!(left <= config.files_max, "{left} files are left");
}

/// An output that is stuck until the test lets it go.
struct Stuck(mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_output_drops_lines_and_the_metric_counts_them() {
    let (release, stuck) = mpsc::channel();
    let config = LogConfig { lines_max: 10, ..config(LogFormat::Json) };
    let (dispatch, guard) = assemble(&config, Stuck(stuck)).unwrap();
    let registry = Registry::new();
    guard.register(&registry).unwrap();
    let metric = || crate::registry::encode(&registry).unwrap();
    assert!(metric().contains("hearth_log_lines_dropped_total{output=\"stdout\"} 0\n"), "{}", metric());
    // At most 10 lines wait in the queue and one batch is being written: most of these are dropped.
    let padding = "x".repeat(4000);
    tracing::dispatcher::with_default(&dispatch, || (0..1000).for_each(|_| info!(padding, "line")));
    let dropped = guard.dropped_lines();
    assert!((900..1000).contains(&dropped), "{dropped}");
    let wanted = format!("hearth_log_lines_dropped_total{{output=\"stdout\"}} {dropped}\n");
    assert!(metric().contains(&wanted), "{}", metric());
    drop(release);
}
