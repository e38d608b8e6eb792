//! Keys and values as the commands show them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use crate::commands::output::{printable, size};

/// How much of a value a table shows, in characters.
const TEXT_CHARS_MAX: usize = 60;

/// A value in JSON: text when it is UTF-8, else base64; neither when there is none to show.
#[derive(Serialize)]
pub(super) struct ShownValue<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'a> ShownValue<'a> {
    pub(super) fn of(bytes: Option<&'a [u8]>) -> Self {
        match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => Self { value: None, value_base64: None },
            Some((_, Ok(text))) => Self { value: Some(text), value_base64: None },
            Some((bytes, Err(_))) => Self { value: None, value_base64: Some(BASE64.encode(bytes)) },
        }
    }
}

/// A value in a table: the beginning of its text, or what else it is.
pub(super) fn short(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return format!("({}, not text)", size(bytes.len() as u64));
    };
    let mut shown: String = printable(&text.chars().take(TEXT_CHARS_MAX).collect::<String>());
    if text.chars().nth(TEXT_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// A time in a table: `29.5 s`; nothing for a key that stays.
pub(super) fn seconds(time: Option<Duration>) -> String {
    time.map(|time| format!("{:.1} s", time.as_secs_f64())).unwrap_or_default()
}

/// A time in JSON.
pub(super) fn ms(time: Option<Duration>) -> Option<u64> {
    time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn long_and_binary_values_are_cut_short() {
        assert_eq!(short(b"text"), "text");
        assert_eq!(short("é\n".as_bytes()), "é�");
        assert_eq!(short("é".repeat(60).as_bytes()), "é".repeat(60));
        assert_eq!(short("é".repeat(61).as_bytes()), format!("{}…", "é".repeat(60)));
        assert_eq!(short(&[0xff; 2048]), "(2.0 KiB, not text)");
    }
}
