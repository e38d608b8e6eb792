//! Flags that several commands have.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::duration;
use crate::idempotency::IdempotencyKey;
use crate::kv::{Condition, Consistency};

/// How fresh a read is.
#[derive(Debug, Args)]
pub struct Freshness {
    /// How fresh the answer must be
    #[arg(long, value_enum, default_value_t)]
    pub consistency: Level,
    /// Take what the asked node has when that lacks no write older than this: 500ms, 2s
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "consistency")]
    pub max_staleness: Option<Duration>,
}

/// What [`Freshness`] chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Level {
    /// Never older than any write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// What the asked node has, at once; it may be behind.
    Local,
}

impl Freshness {
    pub(crate) fn consistency(&self) -> Consistency {
        match (self.max_staleness, self.consistency) {
            (Some(time), _) => Consistency::MaxStaleness(time),
            (None, Level::Linearizable) => Consistency::Linearizable,
            (None, Level::Local) => Consistency::Local,
        }
    }
}

/// What makes a write safe to send again.
#[derive(Debug, Args)]
pub struct Once {
    /// Names this write: repeated with the same key within ten minutes, it is applied once [default: a new
    /// key for each run, so that a lost answer is asked for again safely]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<IdempotencyKey>,
}

impl Once {
    /// The key that was given, or a new one.
    pub(crate) fn key(&self) -> IdempotencyKey {
        self.idempotency_key.clone().unwrap_or_else(IdempotencyKey::random)
    }
}

/// Reads `7`, `"7"` as in an ETag, and `*`.
pub(crate) fn if_match(text: &str) -> Result<Condition, String> {
    if text == "*" {
        return Ok(Condition::Exists);
    }
    let digits = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    match digits.parse() {
        Ok(revision) if revision > 0 => Ok(Condition::Revision(revision)),
        _ => Err("expected a revision, or * for any".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::if_match;
    use crate::kv::Condition;

    #[test]
    fn revisions_are_numbers_in_quotes_or_not() {
        assert_eq!(if_match("7"), Ok(Condition::Revision(7)));
        assert_eq!(if_match("\"7\""), Ok(Condition::Revision(7)));
        assert_eq!(if_match("*"), Ok(Condition::Exists));
        for wrong in ["", "0", "x", "\"7", "-1", "**"] {
            assert!(if_match(wrong).is_err(), "{wrong}");
        }
    }
}
