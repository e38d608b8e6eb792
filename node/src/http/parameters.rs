//! Query parameters: each known by name, given once, percent-decoded.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::Uri;

use crate::http::input::{Consistency, percent_decoded};
use crate::http::problem::{Code, Problem};

/// The parameters of one request.
pub(crate) struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    /// Reads the query. A `+` is a space, as forms and most clients have it.
    ///
    /// # Errors
    /// Names the parameter that is not among `known`, given twice, or badly encoded: a misspelt one must
    /// not pass as if it had worked.
    pub(crate) fn of(uri: &Uri, known: &[&'static str]) -> Result<Self, Problem> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (raw_name, raw_value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decoded("parameter", Code::InvalidParameter, raw_name)?;
            let Some(name) = known.iter().find(|known| **known == name) else {
                return Err(invalid(format!("{name}: not known here")));
            };
            if given.iter().any(|(other, _)| other == name) {
                return Err(invalid(format!("{name}: given twice")));
            }
            // Before it is decoded: an encoded one is a plus.
            let raw_value = match raw_value.contains('+') {
                true => Cow::Owned(raw_value.replace('+', " ")),
                false => Cow::Borrowed(raw_value),
            };
            let value = percent_decoded(name, Code::InvalidParameter, &raw_value)?;
            given.push((name, value.into_owned()));
        }
        Ok(Self(given))
    }

    /// What was given as `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// `true` or `false`; false when it is absent.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(invalid(format!("{name}: {other:?} is neither true nor false"))),
        }
    }

    /// A whole number between the bounds.
    pub(crate) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse().ok().filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(invalid(format!("{name}: {text:?} is not a number from {min} to {max}"))),
        }
    }

    /// A time such as `500ms`.
    pub(crate) fn time(&self, name: &str) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match humantime::parse_duration(text) {
            Ok(time) => Ok(Some(time)),
            Err(error) => Err(invalid(format!("{name}: {error}; write it like 500ms"))),
        }
    }

    /// What a read promises; linearizable when nothing is said.
    pub(crate) fn consistency(&self) -> Result<Consistency, Problem> {
        match (self.get("consistency"), self.time("max_staleness")?) {
            (None, None) | (Some("linearizable"), None) => Ok(Consistency::Linearizable),
            (None, Some(time)) => Ok(Consistency::Within(time)),
            (Some("local"), None) => Ok(Consistency::Local),
            (Some(_), Some(_)) => Err(invalid("consistency, max_staleness: only one of them".to_owned())),
            (Some(other), None) => {
                Err(invalid(format!("consistency: {other:?} is neither linearizable nor local")))
            }
        }
    }
}

/// A parameter that is not valid.
pub(crate) fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidParameter, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str) -> Result<Parameters, Problem> {
        Parameters::of(&uri.parse().unwrap(), &["prefix", "limit", "values", "max_staleness", "consistency"])
    }

    #[test]
    fn values_are_decoded_and_checked() {
        let given = of("/?prefix=a%2Fb+c%2B&limit=10&&values=true").unwrap();
        assert_eq!(given.get("prefix"), Some("a/b c+"));
        assert_eq!(given.number("limit", 1, 10).unwrap(), Some(10));
        assert!(given.flag("values").unwrap());
        assert_eq!(given.get("consistency"), None);

        let absent = of("/").unwrap();
        assert_eq!((absent.number("limit", 1, 10).unwrap(), absent.flag("values").unwrap()), (None, false));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (uri, expected) in [
            ("/?prefx=a", "prefx: not known here"),
            ("/?prefix=a&prefix=b", "prefix: given twice"),
            ("/?prefix=%f", "prefix: a % without two"),
            ("/?prefix=%ff", "prefix: not UTF-8"),
        ] {
            let problem = of(uri).err().map(|problem| format!("{problem:?}")).unwrap();
            assert!(problem.contains(expected), "{uri}: {problem}");
        }
        for (uri, expected) in [
            ("/?limit=0", "limit: \\\"0\\\" is not a number from 1 to 10"),
            ("/?limit=11", "from 1 to 10"),
            ("/?limit=-1", "from 1 to 10"),
        ] {
            let problem = format!("{:?}", of(uri).unwrap().number("limit", 1, 10).unwrap_err());
            assert!(problem.contains(expected), "{uri}: {problem}");
        }
        let problem = format!("{:?}", of("/?values=yes").unwrap().flag("values").unwrap_err());
        assert!(problem.contains("neither true nor false"), "{problem}");
    }
}
