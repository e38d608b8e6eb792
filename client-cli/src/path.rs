//! Keys and names in URL paths, and parameters in queries.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::Error;

/// Everything but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `base` followed by `name` as one path segment: a slash becomes `%2F`, so that leading and doubled ones
/// survive, and the parts `.` and `..` are encoded too, so that nothing on the way resolves them.
///
/// An empty name is refused with [`Error::Usage`]: it would ask for another route.
pub(crate) fn below(base: &str, what: &str, name: &str) -> Result<String, Error> {
    if name.is_empty() {
        return Err(Error::Usage(format!("the {what} must not be empty")));
    }
    let parts: Vec<String> = name.split('/').map(encoded_part).collect();
    Ok(format!("{base}/{}", parts.join("%2F")))
}

/// One part between slashes.
fn encoded_part(part: &str) -> String {
    match part {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => utf8_percent_encode(part, RESERVED).to_string(),
    }
}

/// The query of a request, which grows parameter by parameter behind its path.
pub(crate) struct Query(String);

impl Query {
    /// No parameter yet.
    pub(crate) fn of(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    /// With one more parameter.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, RESERVED));
        self
    }

    /// Path and query.
    pub(crate) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Query, below};

    #[test]
    fn keys_become_one_segment_that_decodes_to_the_key() {
        for (key, path) in [
            ("plain", "/v1/kv/plain"),
            ("a-b_c~d.e", "/v1/kv/a-b_c~d.e"),
            ("a/b", "/v1/kv/a%2Fb"),
            ("/lead", "/v1/kv/%2Flead"),
            ("a//b/", "/v1/kv/a%2F%2Fb%2F"),
            (".", "/v1/kv/%2E"),
            ("..", "/v1/kv/%2E%2E"),
            ("a/../b/./c", "/v1/kv/a%2F%2E%2E%2Fb%2F%2E%2Fc"),
            ("...", "/v1/kv/..."),
            ("50% ?#&+=", "/v1/kv/50%25%20%3F%23%26%2B%3D"),
            ("é\n\"", "/v1/kv/%C3%A9%0A%22"),
        ] {
            let encoded = below("/v1/kv", "key", key).unwrap();
            assert_eq!(encoded, path, "{key:?}");
            let segment = encoded.strip_prefix("/v1/kv/").unwrap();
            let decoded = percent_encoding::percent_decode_str(segment).decode_utf8().unwrap();
            assert_eq!(decoded, key);
        }
    }

    #[test]
    fn parameters_are_encoded() {
        assert_eq!(Query::of("/p").finish(), "/p");
        let query = Query::of(below("/v1/kv", "key", "a?b").unwrap()).with("prefix", "a/b +&=é");
        assert_eq!(query.with("n", "1").finish(), "/v1/kv/a%3Fb?prefix=a%2Fb%20%2B%26%3D%C3%A9&n=1");
    }

    #[test]
    fn an_empty_key_is_refused() {
        assert_eq!(below("/v1/kv", "key", "").unwrap_err().to_string(), "the key must not be empty");
    }
}
