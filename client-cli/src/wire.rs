//! How values and times stand in JSON: bytes as base64, times as milliseconds.

use std::time::Duration;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are text in base64.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Base64(pub(crate) Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match BASE64.decode(&text) {
            Ok(bytes) => Ok(Self(bytes.into())),
            Err(error) => Err(D::Error::custom(format!("not base64: {error}"))),
        }
    }
}

/// For fields that are bytes.
pub(crate) mod base64 {
    use super::{Base64, Bytes, Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        Base64(bytes.clone()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        Base64::deserialize(deserializer).map(|bytes| bytes.0)
    }
}

/// For fields that are a time or nothing.
pub(crate) mod ms {
    use super::{Deserialize, Deserializer, Duration, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let ms = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        ms.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

/// A time as the server takes it: `1500ms`, rounded up to a whole millisecond.
pub(crate) fn ms_text(time: Duration) -> String {
    format!("{}ms", time.as_nanos().div_ceil(1_000_000))
}

/// A time out of a header like `1500ms`.
pub(crate) fn ms_read(text: &str) -> Option<Duration> {
    text.strip_suffix("ms")?.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Base64, ms_read, ms_text};

    #[test]
    fn bytes_are_base64() {
        let bytes = Base64(vec![0, 255].into());
        assert_eq!(serde_json::to_string(&bytes).unwrap(), r#""AP8=""#);
        assert_eq!(serde_json::from_str::<Base64>(r#""AP8=""#).unwrap(), bytes);
        let error = serde_json::from_str::<Base64>(r#""*""#).unwrap_err().to_string();
        assert!(error.starts_with("not base64: "), "{error}");
    }

    #[test]
    fn times_are_milliseconds() {
        assert_eq!(ms_text(Duration::from_micros(1500)), "2ms");
        assert_eq!(ms_read("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!((ms_read("1500"), ms_read("xms"), ms_read("")), (None, None, None));
    }
}
