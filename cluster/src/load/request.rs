//! What is sent, prepared: a request's bytes are laid out once, and only the key's digits change.

use anyhow::{Context, Result, ensure};

/// Digits of a key after its letter.
const KEY_DIGITS: usize = 8;
/// Stands where the key goes while a request is laid out.
pub const KEY_PLACE: &str = "k########";

/// The bytes of a request with a place for the key.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the digits begin, or nothing when the request names no key.
    digits_at: Option<usize>,
}

impl Template {
    /// A request that names [`KEY_PLACE`] once.
    ///
    /// # Errors
    /// When the place is not there, or twice.
    pub fn with_key(bytes: Vec<u8>) -> Result<Self> {
        let mut places = bytes.windows(KEY_PLACE.len()).enumerate();
        let mut place = || places.find(|(_, window)| *window == KEY_PLACE.as_bytes()).map(|(at, _)| at);
        let at = place().context("the request has no place for the key")?;
        ensure!(place().is_none(), "the request has two places for the key");
        Ok(Self { bytes, digits_at: Some(at + 1) })
    }

    /// A request that names no key.
    pub fn without_key(bytes: Vec<u8>) -> Self {
        Self { bytes, digits_at: None }
    }

    /// The request for key number `key`, below 10^8.
    pub fn for_key(&mut self, key: u32) -> &[u8] {
        if let Some(at) = self.digits_at {
            let mut rest = key;
            for digit in self.bytes[at..at + KEY_DIGITS].iter_mut().rev() {
                *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
                rest /= 10;
            }
        }
        &self.bytes
    }
}

/// Why a request was not answered as it should be.
#[derive(Debug)]
pub enum Failure {
    /// The server said no, or answered something else; the connection is usable.
    Refused(String),
    /// The connection is of no use any more.
    Broken(String),
}

impl Failure {
    /// What was seen, for people.
    pub fn text(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Broken(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_in_place() {
        let mut template = Template::with_key(format!("GET /{KEY_PLACE} x").into_bytes()).unwrap();
        for (key, expected) in
            [(0, "GET /k00000000 x"), (99_999, "GET /k00099999 x"), (7, "GET /k00000007 x")]
        {
            assert_eq!(template.for_key(key), expected.as_bytes());
        }
    }

    #[test]
    fn a_request_has_one_place_for_the_key() {
        assert!(Template::with_key(b"GET /".to_vec()).is_err());
        assert!(Template::with_key(format!("{KEY_PLACE} {KEY_PLACE}").into_bytes()).is_err());
        assert_eq!(Template::without_key(b"GET /".to_vec()).for_key(5), b"GET /");
    }
}
