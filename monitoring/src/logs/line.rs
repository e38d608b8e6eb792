//! One event as one line: JSON for collectors, text for people.

use std::fmt::Write;

use serde_json::Value;
use tracing::Level;

use super::fields::Fields;

/// The names that every JSON line has. A field with such a name is written as `field_<name>`, so that no
/// key comes twice.
const RESERVED: [&str; 4] = ["timestamp", "level", "target", "node"];

/// What a line tells.
pub(super) struct Line<'a> {
    /// RFC 3339, UTC, microseconds.
    pub(super) timestamp: &'a str,
    pub(super) level: Level,
    /// The module path, or what the event named as its target.
    pub(super) target: &'a str,
    /// The configured name of the node.
    pub(super) node: &'a str,
    /// Fields of the event and of the spans around it, the message among them.
    pub(super) fields: &'a Fields,
}

impl Line<'_> {
    /// A JSON object with flat keys, and a newline.
    pub(super) fn json(&self) -> String {
        let mut out = String::with_capacity(256);
        // Formatting into a String does not fail, and Value's Display is its JSON.
        let _ = write!(out, "{{\"timestamp\":\"{}\",\"level\":\"{}\"", self.timestamp, self.level);
        push_member(&mut out, "target", &self.target.into());
        push_member(&mut out, "node", &self.node.into());
        for (name, value) in self.fields.iter() {
            if RESERVED.contains(&name) {
                push_member(&mut out, &format!("field_{name}"), value);
            } else {
                push_member(&mut out, name, value);
            }
        }
        out.push_str("}\n");
        out
    }

    /// `timestamp LEVEL node target: message name=value …`, and a newline; with ANSI colours if asked for.
    pub(super) fn text(&self, style: &Style) -> String {
        let mut out = String::with_capacity(256);
        let Style { dim, bold, reset, .. } = style;
        // Writing to a String does not fail.
        let _ = write!(out, "{dim}{}{reset} ", self.timestamp);
        let _ = write!(out, "{}{:>5}{reset} ", style.level(self.level), self.level.as_str());
        let _ = write!(out, "{bold}{}{reset} {dim}{}:{reset}", self.node, self.target);
        for (name, value) in self.fields.iter() {
            out.push(' ');
            if name != "message" {
                let _ = write!(out, "{dim}{name}={reset}");
            }
            push_text(&mut out, value, name != "message");
        }
        out.push('\n');
        out
    }
}

/// The escape sequences of the text format; all empty without colour.
#[derive(Default)]
pub(super) struct Style {
    dim: &'static str,
    bold: &'static str,
    reset: &'static str,
    red: &'static str,
    yellow: &'static str,
    green: &'static str,
    blue: &'static str,
}

impl Style {
    /// No escape sequences at all.
    pub(super) fn plain() -> Self {
        Self::default()
    }

    /// ANSI (ECMA-48) colours.
    pub(super) fn coloured() -> Self {
        Self {
            dim: "\x1b[2m",
            bold: "\x1b[1m",
            reset: "\x1b[0m",
            red: "\x1b[31m",
            yellow: "\x1b[33m",
            green: "\x1b[32m",
            blue: "\x1b[34m",
        }
    }

    fn level(&self, level: Level) -> &'static str {
        match level {
            Level::ERROR => self.red,
            Level::WARN => self.yellow,
            Level::INFO => self.green,
            Level::DEBUG => self.blue,
            Level::TRACE => self.dim,
        }
    }
}

/// `,"name":value`
fn push_member(out: &mut String, name: &str, value: &Value) {
    // A name can be any string literal: `info!("my \"key\"" = 1)`.
    let _ = write!(out, ",{}:{value}", Value::from(name));
}

/// A value for people: quoted where it would be ambiguous, control characters escaped always.
fn push_text(out: &mut String, value: &Value, quote: bool) {
    let Value::String(text) = value else {
        let _ = write!(out, "{value}");
        return;
    };
    if quote && (text.is_empty() || text.contains([' ', '"', '='])) {
        let _ = write!(out, "{text:?}");
        return;
    }
    for character in text.chars() {
        if character.is_control() {
            let _ = write!(out, "{}", character.escape_default());
        } else {
            out.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_values_stay_on_one_line_and_quote_what_is_ambiguous() {
        let table = [
            ("plain", true, "plain"),
            ("two words", true, "\"two words\""),
            ("two words", false, "two words"),
            ("", true, "\"\""),
            ("a=b", true, "\"a=b\""),
            ("forged\n2026", false, "forged\\n2026"),
            ("\u{1b}[2J", true, "\\u{1b}[2J"),
        ];
        for (text, quote, wanted) in table {
            let mut out = String::new();
            push_text(&mut out, &text.into(), quote);
            assert_eq!(out, wanted);
        }
    }
}
