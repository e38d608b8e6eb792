//! Reading what clients send: path segments, query parameters, bodies. Everything is bounded, and
//! every error names the field and the limit.

use std::borrow::Cow;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use utoipa::IntoParams;

use crate::http::Gate;
use crate::http::buffers::Held;
use crate::http::connection::BodyTimeout;
use crate::http::parameters::Parameters;
use crate::http::problem::{Code, Problem};

/// Bytes of a key.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// Bytes of a value.
pub(crate) const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a name.
pub(crate) const NAME_BYTES_MAX: usize = 256;
/// Bytes of a JSON body; a name of 256 bytes takes at most six times that, escaped.
pub(crate) const JSON_BYTES_MAX: usize = 64 * 1024;
/// Memory for each byte of a body: as it was received, parsed, encoded as a command, and on its way to the
/// leader.
const BODY_COPIES: usize = 4;
/// Bytes of a media type.
pub(crate) const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// What a request asks, but for its body. Taken out of the request: axum's own extractors copy.
pub(crate) struct Asked {
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self { uri: std::mem::take(&mut parts.uri), headers: std::mem::take(&mut parts.headers) })
    }
}

/// The query of a read, as [`Consistency::from_query`] reads it: only one of both.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "says what is accepted; the parser refuses unknown and doubled parameters")]
pub(super) struct ReadQuery {
    /// `linearizable` (the default) includes every write acknowledged before the read began; `local` is what
    /// this node has applied.
    #[param(pattern = "^(linearizable|local)$")]
    consistency: Option<String>,
    /// Like `500ms`: answered from this node when its state is proven to be at most that old, else
    /// linearizable. Not together with `consistency`.
    #[param(pattern = "^[0-9]{1,9}(ms|s|m)$")]
    max_staleness: Option<String>,
}

/// What a read promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// Includes every write acknowledged before the read began.
    Linearizable,
    /// Includes every write acknowledged this long before the read began.
    Within(Duration),
    /// What this node has applied.
    Local,
}

impl Consistency {
    /// What chooses it.
    pub(crate) const PARAMETERS: [&str; 2] = ["consistency", "max_staleness"];

    /// From `?consistency=` or `?max_staleness=`; linearizable when both are absent. No other parameter
    /// is known.
    pub(crate) fn from_query(uri: &Uri) -> Result<Self, Problem> {
        Parameters::of(uri, &Self::PARAMETERS)?.consistency()
    }
}

/// Refuses any query: a misspelt parameter must not pass as if it had worked.
pub(crate) fn no_query(uri: &Uri) -> Result<(), Problem> {
    match uri.query() {
        None | Some("") => Ok(()),
        Some(query) => {
            Err(Problem::new(Code::InvalidParameter, format!("{query}: no parameter is known here")))
        }
    }
}

/// The key in a path, whatever follows `/v1/kv/`, percent-decoded.
pub(crate) fn key(uri: &Uri) -> Result<String, Problem> {
    not_too_long("key", decoded("key", Code::InvalidKey, uri, "/v1/kv/")?)
}

/// A key, or the beginning of one, of at most [`KEY_BYTES_MAX`] bytes.
pub(crate) fn not_too_long(field: &str, key: String) -> Result<String, Problem> {
    if key.len() > KEY_BYTES_MAX {
        let detail = format!("{field}: {} bytes, more than {KEY_BYTES_MAX}", key.len());
        return Err(Problem::new(Code::KeyTooLong, detail));
    }
    Ok(key)
}

/// The name in a path, whatever follows `/age/`, percent-decoded.
pub(crate) fn name(uri: &Uri) -> Result<String, Problem> {
    checked_name(decoded("name", Code::InvalidName, uri, "/age/")?)
}

/// A name of 1 to [`NAME_BYTES_MAX`] bytes.
pub(crate) fn checked_name(name: String) -> Result<String, Problem> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(name);
    }
    let detail = format!("name: {} bytes, not 1 to {NAME_BYTES_MAX}", name.len());
    Err(Problem::new(Code::InvalidName, detail))
}

fn decoded(field: &str, code: Code, uri: &Uri, prefix: &str) -> Result<String, Problem> {
    match percent_decoded(field, code, uri.path().strip_prefix(prefix).unwrap_or_default())? {
        text if text.is_empty() => Err(Problem::new(code, format!("{field}: empty"))),
        text => Ok(text.into_owned()),
    }
}

/// Percent-decoded text, of any length.
pub(crate) fn percent_decoded<'a>(field: &str, code: Code, raw: &'a str) -> Result<Cow<'a, str>, Problem> {
    // A percent sign without two hex digits would be taken literally: refuse it instead.
    let mut rest = raw.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        if !rest.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
            return Err(Problem::new(code, format!("{field}: a % without two hexadecimal digits")));
        }
        rest = &rest[at + 3..];
    }
    percent_decode_str(raw).decode_utf8().map_err(|_| Problem::new(code, format!("{field}: not UTF-8")))
}

/// The body of a write, with the memory that it and the write take.
pub(crate) struct Received {
    /// All of it.
    pub(crate) bytes: Bytes,
    /// To be kept until the write is done.
    pub(crate) held: Held,
}

/// The whole body of a write, when it has at most `bytes_max`; more is not read, and neither is the body of a
/// write that has no chance now.
pub(crate) async fn body(
    store: &Gate,
    field: &str,
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Received, Problem> {
    let too_large = |bytes: &str| {
        Problem::new(Code::BodyTooLarge, format!("{field}: {bytes} bytes, more than {bytes_max}"))
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(announced) = announced.filter(|announced| *announced > bytes_max as u64) {
        return Err(too_large(&announced.to_string()));
    }
    store.expect_write()?;
    let mut held = store.buffers.hold(0).await?;
    let mut body = Limited::new(body, bytes_max);
    let mut pieces = Pieces::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error {
            error if error.is::<LengthLimitError>() => too_large("too many"),
            error if is_timeout(&*error) => {
                Problem::new(Code::ClientTimeout, format!("{field}: {error} (http.body_timeout)"))
            }
            error => Problem::new(Code::InvalidBody, format!("{field}: {error}")),
        })?;
        // Trailers are not asked for.
        let Ok(data) = frame.into_data() else { continue };
        store.buffers.grow(&mut held, data.len() * BODY_COPIES).await?;
        pieces.push(data);
    }
    Ok(Received { bytes: pieces.into_bytes(), held })
}

/// A body piece by piece. A single piece stays as it came; several are put together at once: each would keep the
/// buffer that it was read into, so that many small ones would take many times their length.
#[derive(Default)]
struct Pieces {
    /// The only one so far; empty when there are more.
    first: Bytes,
    all: Vec<u8>,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if self.all.is_empty() && self.first.is_empty() {
            self.first = piece;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&piece);
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.into() }
    }
}

/// Whether the cause is that the body did not arrive in time.
fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<BodyTimeout>() || error.source().is_some_and(is_timeout)
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies_of_many_pieces_take_little_more_than_their_bytes() {
        let mut pieces = Pieces::default();
        assert_eq!(Pieces::default().into_bytes(), "");
        let whole: Bytes = (0..100_000).map(|number: u32| number.to_le_bytes()[0]).collect();
        // Empty ones come too.
        for piece in [0..0, 0..1, 1..1].into_iter().chain((1..whole.len()).map(|at| at..at + 1)) {
            pieces.push(whole.slice(piece));
        }
        assert!(pieces.first.is_empty() && pieces.all.capacity() <= 2 * whole.len());
        assert_eq!(pieces.into_bytes(), whole);
        let mut single = Pieces::default();
        single.push(whole.clone());
        assert_eq!(single.into_bytes().as_ptr(), whole.as_ptr(), "it was copied");
    }

    fn detail(result: Result<String, Problem>) -> String {
        match result {
            Ok(text) => text,
            Err(problem) => format!("{problem:?}"),
        }
    }

    #[test]
    fn keys_and_names() {
        let long = "x".repeat(1025);
        let cases = [
            ("/v1/kv/a/b", "a/b"),
            ("/v1/kv/%2Fa%2f/", "/a//"),
            ("/v1/kv//a", "/a"),
            ("/v1/kv/%F0%9F%94%A5+%20", "🔥+ "),
            ("/v1/kv/..%2F..", "../.."),
            ("/v1/kv/%zz", "key: a % without two"),
            ("/v1/kv/a%", "key: a % without two"),
            ("/v1/kv/%ff", "key: not UTF-8"),
        ];
        for (path, expected) in cases {
            let got = detail(key(&path.parse().unwrap()));
            assert!(got == expected || got.contains(expected) && got.contains("InvalidKey"), "{path}: {got}");
        }
        let got = detail(key(&format!("/v1/kv/{long}").parse().unwrap()));
        assert!(got.contains("key: 1025 bytes, more than 1024"), "{got}");
        assert_eq!(detail(name(&"/age/O'Brien%22;--".parse().unwrap())), "O'Brien\";--");
        let got = detail(name(&format!("/age/{}", "é".repeat(129)).parse().unwrap_or_default()));
        assert!(got.contains("name: "), "{got}");
    }

    #[test]
    fn parameters() {
        let cases = [
            ("/k", Ok(Consistency::Linearizable)),
            ("/k?", Ok(Consistency::Linearizable)),
            ("/k?consistency=local", Ok(Consistency::Local)),
            ("/k?consistency=Local", Err("consistency: \\\"Local\\\" is neither")),
            ("/k?consistancy=local", Err("consistancy: not known here")),
            ("/k?max_staleness=500ms", Ok(Consistency::Within(Duration::from_millis(500)))),
            ("/k?max_staleness=5", Err("max_staleness: time unit needed")),
            ("/k?max_staleness=1s&consistency=local", Err("only one of them")),
        ];
        for (uri, expected) in cases {
            let got = Consistency::from_query(&uri.parse().unwrap());
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(problem), Err(expected)) => {
                    assert!(format!("{problem:?}").contains(expected), "{problem:?}")
                }
                (got, _) => panic!("{uri}: {got:?}"),
            }
        }
    }

    fn encoded(text: &str, keep_slashes: bool) -> String {
        let all = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        if keep_slashes { all.replace("%2F", "/") } else { all }
    }

    proptest! {
        /// Every key there may be comes out as it went in, encoded or with its slashes as they are.
        #[test]
        fn keys_round_trip(key_in in "\\PC{1,256}|[\u{0}-\u{7f}]{1,64}|[/.%]{1,16}", slashes: bool) {
            let uri = format!("/v1/kv/{}", encoded(&key_in, slashes)).parse().unwrap();
            prop_assert_eq!(key(&uri).unwrap(), key_in);
        }

        /// The same of names, up to their limit.
        #[test]
        fn names_round_trip(name_in in "\\PC{1,100}") {
            let uri = format!("/age/{}", encoded(&name_in, false)).parse().unwrap();
            match name(&uri) {
                Ok(name) => prop_assert_eq!(name, name_in),
                Err(problem) => prop_assert!(name_in.len() > NAME_BYTES_MAX, "{problem:?}"),
            }
        }

        /// No path makes the parsers panic; what they take is within its bounds, and encoded anew it is
        /// taken for the same.
        #[test]
        fn any_path(tail in vec(prop_oneof![Just(b'%'), Just(b'/'), any::<u8>()], 0..80)) {
            for prefix in ["/v1/kv/", "/age/", "/"] {
                let Ok(uri) = Uri::try_from([prefix.as_bytes(), &tail].concat()) else { continue };
                if let Ok(taken) = key(&uri) {
                    prop_assert!((1..=KEY_BYTES_MAX).contains(&taken.len()));
                    let again = format!("/v1/kv/{}", encoded(&taken, true)).parse().unwrap();
                    prop_assert_eq!(key(&again).unwrap(), taken);
                }
                if let Ok(taken) = name(&uri) {
                    prop_assert!((1..=NAME_BYTES_MAX).contains(&taken.len()));
                }
            }
        }

        /// No query makes the parser panic; what it takes says the same written plainly.
        #[test]
        fn any_query(query in "((consistency|max_staleness|c|)(=|)(linearizable|local|[0-9]{0,25}(ms|s|h|y|)|\\PC{0,5})(&|)){0,3}") {
            let Ok(uri) = Uri::try_from(format!("/k?{query}")) else { return Ok(()) };
            let Ok(taken) = Consistency::from_query(&uri) else { return Ok(()) };
            let plain = match taken {
                Consistency::Linearizable => "consistency=linearizable".to_owned(),
                Consistency::Local => "consistency=local".to_owned(),
                Consistency::Within(time) => {
                    format!("max_staleness={}", humantime::format_duration(time).to_string().replace(' ', ""))
                }
            };
            let again = Consistency::from_query(&format!("/k?{plain}").parse().unwrap());
            prop_assert_eq!(again.unwrap(), taken);
        }
    }
}
