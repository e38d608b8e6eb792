//! Idempotency keys: what makes it safe to send a write again.

use std::fmt;
use std::str::FromStr;

/// Names one write. However often the write arrives with it, the cluster applies it once, and answers each
/// time what it answered first.
///
/// The cluster keeps that answer for its `idempotency.window`, ten minutes unless configured otherwise. A
/// different request with the same key is refused with 422 `idempotency_key_reused`.
///
/// Invariant: 1..=128 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

/// The text is not 1..=128 visible ASCII characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to {BYTES_MAX} visible ASCII characters, and no spaces")]
pub struct IdempotencyKeyError;

/// The longest key, in bytes.
const BYTES_MAX: usize = 128;

impl IdempotencyKey {
    /// A new one that no other write has: 128 random bits, in hexadecimal.
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The key as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = IdempotencyKeyError;

    fn from_str(text: &str) -> Result<Self, IdempotencyKeyError> {
        let fits = (1..=BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.to_owned())) } else { Err(IdempotencyKeyError) }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::IdempotencyKey;

    #[test]
    fn keys_are_visible_ascii() {
        for (text, valid) in [
            ("order-1", true),
            ("~!\"", true),
            (&"k".repeat(128), true),
            (&"k".repeat(129), false),
            ("", false),
            ("a b", false),
            ("é", false),
            ("a\n", false),
        ] {
            assert_eq!(text.parse::<IdempotencyKey>().is_ok(), valid, "{text:?}");
        }
    }

    #[test]
    fn random_keys_are_valid_and_differ() {
        let (one, other) = (IdempotencyKey::random(), IdempotencyKey::random());
        assert_ne!(one, other);
        assert_eq!(one.as_str().parse(), Ok(one));
    }
}
