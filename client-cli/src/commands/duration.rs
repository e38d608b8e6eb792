//! Durations on the command line.

use std::time::Duration;

const DAY_MS: u64 = 24 * 3_600_000;

/// Reads `500ms`, `10s`, `2m`, `1h`, `7d`; a number alone is seconds. Zero is refused, and what is more than a
/// year: what is added to a clock must not overflow it.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    match parse_long(text)? {
        duration if duration <= Duration::from_millis(365 * DAY_MS) => Ok(duration),
        _ => Err("must be at most a year".to_owned()),
    }
}

/// The same up to a hundred years, which is as long as a key may live.
pub(crate) fn parse_long(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 500ms, 10s or 2m".to_owned();
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => DAY_MS,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit_ms) {
        Some(0) => Err("must be more than zero".to_owned()),
        Some(ms) if ms <= 100 * 366 * DAY_MS => Ok(Duration::from_millis(ms)),
        _ => Err("must be at most 100 years".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, parse_long};

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("3", Some(3000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("365d", Some(31_536_000_000)),
            ("366d", None),
            ("0s", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1 week", None),
            ("99999999999999999999", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse(text).ok().map(|duration| duration.as_millis()), ms, "{text:?}");
        }
    }
    #[test]
    fn a_key_may_live_a_hundred_years() {
        assert_eq!(parse_long("36600d").unwrap().as_secs(), 36_600 * 24 * 3600);
        assert_eq!(parse_long("36601d").unwrap_err(), "must be at most 100 years");
        assert_eq!(parse("366d").unwrap_err(), "must be at most a year");
    }
}
