//! The fields of an event or a span, captured once and rendered by whichever format needs them.

use std::error::Error;
use std::fmt::{self, Write};

use serde_json::{Number, Value};
use tracing::field::{Field, Visit};

/// A field's value is cut at this many bytes and marked with `…`.
///
/// It bounds a line: `tracing` allows 32 fields in an event, and the queue is bounded in lines.
pub const FIELD_BYTES_MAX: usize = 8 * 1024;

/// Captured fields in the order in which they were first recorded; names are unique.
///
/// Values are booleans, numbers or strings: whatever is recorded through `Display` or `Debug` is a string.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// Adds the field, or replaces its value: a span may record a field again.
    fn set(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Adds those of `outer` that are not here yet: the inner scope wins.
    pub(super) fn inherit(&mut self, outer: &Fields) {
        for (name, value) in &outer.0 {
            if !self.0.iter().any(|(known, _)| known == name) {
                self.0.push((name, value.clone()));
            }
        }
    }

    /// Removes a field and returns it.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(index).1)
    }

    /// Removes the fields whose names begin with `prefix`.
    pub(super) fn drop_prefixed(&mut self, prefix: &str) {
        self.0.retain(|(name, _)| !name.starts_with(prefix));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(name(field), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(name(field), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(name(field), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinities.
        let number = Number::from_f64(value).map(Value::Number);
        self.set(name(field), number.unwrap_or_else(|| value.to_string().into()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(name(field), cut(format_args!("{value}")).into());
    }

    /// An error is told with its causes: `outer: inner: innermost`.
    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        self.set(name(field), cut(format_args!("{}", Causes(error))).into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(name(field), cut(format_args!("{value:?}")).into());
    }
}

/// `r#type` is called `type`.
fn name(field: &Field) -> &'static str {
    field.name().trim_start_matches("r#")
}

/// An error and its sources, joined by colons.
struct Causes<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Renders `text`, stopping at [`FIELD_BYTES_MAX`].
fn cut(text: fmt::Arguments<'_>) -> String {
    struct Cut(String);
    impl Write for Cut {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let room = FIELD_BYTES_MAX - self.0.len();
            if part.len() <= room {
                self.0.push_str(part);
                return Ok(());
            }
            self.0.push_str(&part[..part.floor_char_boundary(room)]);
            // Ends the formatting: rendering the rest would only cost time.
            Err(fmt::Error)
        }
    }
    let mut cut = Cut(String::new());
    // An error is the cut above, or a value whose own formatting failed: both leave a partial text.
    if cut.write_fmt(text).is_err() {
        cut.0.push('…');
    }
    cut.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_at_a_character() {
        let text = "é".repeat(FIELD_BYTES_MAX);
        let shown = cut(format_args!("x{text}"));
        assert!(shown.len() <= FIELD_BYTES_MAX + '…'.len_utf8());
        assert!(shown.ends_with("é…"));
        assert_eq!(cut(format_args!("{}", "x".repeat(FIELD_BYTES_MAX))).len(), FIELD_BYTES_MAX);
    }

    #[test]
    fn the_inner_scope_wins() {
        let mut event = Fields(vec![("a", 1.into())]);
        event.inherit(&Fields(vec![("a", 2.into()), ("b", true.into())]));
        assert_eq!(event.0, [("a", 1.into()), ("b", true.into())]);
        event.set("b", false.into());
        assert_eq!(event.take("b"), Some(false.into()));
        assert_eq!(event.take("b"), None);
    }
}
