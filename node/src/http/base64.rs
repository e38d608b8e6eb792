//! Bytes in JSON: base64 (RFC 4648), written without a copy of its own.

use base64::display::Base64Display;
use base64::prelude::BASE64_STANDARD;
use serde::{Serialize, Serializer};

/// Bytes that are base64 as JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base64<T>(pub(super) T);

impl<T: AsRef<[u8]>> Base64<T> {
    /// How long it is as JSON.
    pub(super) fn json_bytes(&self) -> usize {
        self.0.as_ref().len().div_ceil(3) * 4 + 2
    }
}

impl<T: AsRef<[u8]>> Serialize for Base64<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0.as_ref(), &BASE64_STANDARD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for bytes in 0..10_000 {
            let value = Base64(vec![0xfb; bytes]);
            let json = serde_json::to_string(&value).unwrap();
            assert_eq!(json.len(), value.json_bytes());
        }
        assert_eq!(serde_json::to_string(&Base64(b"\xfb\xf0")).unwrap(), "\"+/A=\"");
    }
}
