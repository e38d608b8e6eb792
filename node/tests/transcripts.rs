//! Golden transcripts: what is sent to a real node and what it answers, in `src/http/transcripts/`.
//!
//! ```text
//! # A comment.
//! @flags --storage-data-bytes-max 1KiB
//! @await /livez
//!
//! > PUT /v1/kv/a
//! > content-type: text/plain
//! >
//! > hello
//! < 201
//! < content-type: application/json
//! < etag: "R1"
//! <
//! < {"key":"a","revision":R1,"created":true}
//! ```
//!
//! A file is one node's life. Lines with `>` are a request: `Host`, `Connection: close`, `Content-Length` and
//! `X-Request-Id: t1, t2, …` are added; `${x*1025}` stands for that many x. `>>` is sent as it stands, with
//! `\r`, `\n` and `\xFF`. Before a request may stand:
//! - `@until TEXT`: the answer does not end by itself; it is read until TEXT has come;
//! - `@head`: the body does not matter; `@shape`: of a JSON body only the types do;
//! - `@background TEXT`: its answer is not waited for; the next request is sent once `/metrics` has TEXT.
//!
//! At the top, `@flags` are the node's flags (`{peer}` is its peer address), `@flag` is one of them, spaces and
//! all, and `@await` is the path that
//! has to answer 200 before the first request, `/readyz` by default.
//!
//! Revisions are named in the order they appear in answers: R1, R2, …, and a request's `${R1}` stands for
//! the number. `Date`, `Hearth-Revision` (which counts more than writes), times and made request ids are
//! left out or shown as `*`.
//!
//! `HEARTH_TRANSCRIPTS=write cargo test -p hearth-node --test transcripts` writes the files anew; without
//! it, a difference is an error that shows it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

mod served;

use served::{Served, exchange};

#[test]
fn answers_are_as_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/transcripts");
    let mut files: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let write = std::env::var("HEARTH_TRANSCRIPTS").is_ok_and(|value| value == "write");
    let mut differences = String::new();
    for file in files {
        let written = std::fs::read_to_string(&file).unwrap();
        let seen = Transcript::default().replay(&written);
        if seen != written && write {
            std::fs::write(&file, &seen).unwrap();
        } else if seen != written {
            let diff = similar::TextDiff::from_lines(&written, &seen);
            let name = file.file_name().unwrap().to_string_lossy();
            let diff =
                diff.unified_diff().context_radius(6).header(&name, "what the node answers").to_string();
            differences.push_str(&diff);
        }
    }
    assert!(differences.is_empty(), "HEARTH_TRANSCRIPTS=write accepts this:\n{differences}");
}

#[derive(Default)]
struct Transcript {
    node: Option<Served>,
    flags: Vec<String>,
    awaited: Option<String>,
    requests: usize,
    /// The revision named R1 is the first one.
    revisions: Vec<u64>,
    directives: Directives,
}

#[derive(Default)]
struct Directives {
    until: Option<String>,
    head: bool,
    shape: bool,
    background: Option<String>,
}

impl Transcript {
    /// The file as it should be: everything but the answers as it was.
    fn replay(mut self, written: &str) -> String {
        let mut out = String::new();
        let mut request: Vec<&str> = Vec::new();
        for line in written.lines().chain([""]) {
            let is_request = line.starts_with('>');
            if !is_request && !request.is_empty() {
                out.push_str(&self.answer(&std::mem::take(&mut request)));
            }
            if is_request {
                request.push(line);
            }
            if let Some(directive) = line.strip_prefix('@') {
                self.direct(directive);
            }
            if line != "<" && !line.starts_with("< ") {
                out.push_str(line);
                out.push('\n');
            }
        }
        // The empty line that ended the last request.
        out.pop();
        out
    }

    fn direct(&mut self, directive: &str) {
        let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
        match word {
            "flag" => self.flags.push(rest.to_owned()),
            "flags" => self.flags.extend(rest.split_whitespace().map(str::to_owned)),
            "await" => self.awaited = Some(rest.to_owned()),
            "until" => self.directives.until = Some(rest.to_owned()),
            "head" => self.directives.head = true,
            "shape" => self.directives.shape = true,
            "background" => self.directives.background = Some(rest.to_owned()),
            _ => panic!("@{directive} is not known"),
        }
    }

    fn answer(&mut self, lines: &[&str]) -> String {
        let directives = std::mem::take(&mut self.directives);
        let request = self.request(lines);
        let awaited = self.awaited.as_deref().unwrap_or("/readyz");
        let node = self.node.get_or_insert_with(|| Served::start(&self.flags, awaited));
        let stream = node.connect();
        if let Some(text) = directives.background {
            std::thread::spawn(move || exchange(stream, &request, None));
            let deadline = std::time::Instant::now() + served::BOUND;
            while !node.get("/metrics").contains(&text) {
                assert!(std::time::Instant::now() < deadline, "/metrics never has {text}");
            }
            return String::new();
        }
        let answer = exchange(stream, &request, directives.until.as_deref());
        self.show(&answer, &directives)
    }

    /// The bytes of a request.
    fn request(&mut self, lines: &[&str]) -> Vec<u8> {
        if lines.iter().all(|line| line.starts_with(">>")) {
            let raw: Vec<&str> = lines.iter().map(|line| line[2..].trim_start()).collect();
            return unescape(&self.expand(&raw.concat()));
        }
        self.requests += 1;
        let lines: Vec<String> =
            lines.iter().map(|line| self.expand(line[1..].strip_prefix(' ').unwrap_or(&line[1..]))).collect();
        let blank = lines.iter().position(String::is_empty);
        let (head, body) = match blank {
            Some(at) => (&lines[..at], Some(lines[at + 1..].join("\n"))),
            None => (&lines[..], None),
        };
        let mut text = format!(
            "{} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nX-Request-Id: t{}\r\n",
            head[0], self.requests
        );
        for header in &head[1..] {
            let _ = write!(text, "{header}\r\n");
        }
        if let Some(body) = &body {
            let _ = write!(text, "Content-Length: {}\r\n", body.len());
        }
        text.push_str("\r\n");
        text.push_str(body.as_deref().unwrap_or_default());
        text.into_bytes()
    }

    /// With `${x*3}` and `${R1}` replaced.
    fn expand(&self, text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, more)) = rest.split_once("${") {
            out.push_str(before);
            let inside = more.split_once('}');
            let repeated = inside.and_then(|(inside, after)| {
                let (what, times) = inside.split_once('*')?;
                Some((what.repeat(times.parse().ok()?), after))
            });
            let revision = inside.and_then(|(inside, after)| {
                let number: usize = inside.strip_prefix('R')?.parse().ok()?;
                Some((self.revisions.get(number.checked_sub(1)?)?.to_string(), after))
            });
            match repeated.or(revision) {
                Some((text, after)) => {
                    out.push_str(&text);
                    rest = after;
                }
                None => {
                    out.push_str("${");
                    rest = more;
                }
            }
        }
        out + rest
    }

    fn show(&mut self, answer: &[u8], directives: &Directives) -> String {
        let answer = String::from_utf8_lossy(answer);
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            return format!("< (no answer: {answer:?})\n");
        };
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let mut out = format!("< {status}\n");
        for header in lines {
            let (name, value) = header.split_once(": ").unwrap_or((header, ""));
            let value = match name {
                "date" | "connection" | "hearth-node" => continue,
                "content-length" if !directives.head && !body.is_empty() => continue,
                "content-length" if directives.head => "*".to_owned(),
                "hearth-revision"
                | "hearth-oldest-revision"
                | "hearth-staleness-ms"
                | "hearth-expires-in" => "*".to_owned(),
                "hearth-request-id" if !value.starts_with('t') => "*".to_owned(),
                "etag" => self.name_revisions(value, "\""),
                _ => value.to_owned(),
            };
            let _ = writeln!(out, "< {name}: {value}");
        }
        if directives.head || body.is_empty() {
            return out;
        }
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunk(body) } else { body.to_owned() };
        let mut body = match directives.shape {
            true => shape(&serde_json::from_str(&body).unwrap()).to_string(),
            false => body,
        };
        for before in [
            "\"revision\":",
            "\"created_revision\":",
            "\"next_revision\":",
            "id: ",
            "has revision ",
            "to resume after is ",
        ] {
            body = self.name_revisions(&body, before);
        }
        body = without_numbers(&body, "\"expires_in_ms\":");
        if !body.contains("\"request_id\":\"t")
            && let Some((start, rest)) = body.split_once("\"request_id\":\"")
            && let Some((_, end)) = rest.split_once('"')
        {
            body = format!("{start}\"request_id\":\"*\"{end}");
        }
        out.push_str("<\n");
        for line in body.split('\n') {
            out.push_str(format!("< {line}").trim_end());
            out.push('\n');
        }
        out
    }

    /// Names each number that directly follows `before`.
    fn name_revisions(&mut self, text: &str, before: &str) -> String {
        let mut parts = text.split(before);
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            out.push_str(before);
            if let Ok(revision) = part[..digits].parse() {
                let known = self.revisions.iter().position(|known| *known == revision);
                let place = known.unwrap_or_else(|| {
                    self.revisions.push(revision);
                    self.revisions.len() - 1
                });
                let _ = write!(out, "R{}", place + 1);
            }
            out.push_str(&part[digits..]);
        }
        out
    }
}

/// With `*` for each number that directly follows `before`.
fn without_numbers(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(before);
        out.push_str(if rest.len() < part.len() { "*" } else { "" });
        out.push_str(rest);
    }
    out
}

/// A JSON value with names of types in place of what may differ.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

/// The chunks that have come whole, joined.
fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        let Some(chunk) = rest.get(..length).filter(|chunk| !chunk.is_empty()) else { break };
        out.push_str(chunk);
        body = rest[length..].strip_prefix("\r\n").unwrap_or_default();
    }
    out
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        (rest, _) = match (first, after) {
            (b'\\', [b'r', after @ ..]) => (after, out.push(b'\r')),
            (b'\\', [b'n', after @ ..]) => (after, out.push(b'\n')),
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                let byte =
                    std::str::from_utf8(&digits).ok().and_then(|text| u8::from_str_radix(text, 16).ok());
                (after, out.push(byte.unwrap()))
            }
            _ => (after, out.push(*first)),
        };
    }
    out
}
