//! Conditions on the entity tag of a key or a list, its revision in quotes (RFC 9110, section 13).

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use hearth_raft::Expect;
use utoipa::IntoParams;

use crate::http::problem::{Code, Problem};

/// Entity tags that one header may list.
const TAGS_MAX: usize = 64;

/// The condition of a read, as [`has_already`] reads it.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "says what is accepted; several header lines count as one")]
pub(super) struct IfNoneMatch {
    /// ETags that the client has, like `"5"`, or `*`: the answer is 304 when the current one is among them.
    #[param(
        rename = "If-None-Match",
        pattern = r#"^(\*|(W/)?"[0-9a-z]{1,20}"(, ?(W/)?"[0-9a-z]{1,20}"){0,63})$"#
    )]
    if_none_match: Option<String>,
}

/// The conditions of a write, as [`of_write`] reads them.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "says what is accepted; several header lines count as one")]
pub(super) struct WriteConditions {
    /// Write only if the key has one of these ETags, like `"5"`; with `*` if it exists.
    #[param(
        rename = "If-Match",
        pattern = r#"^(\*|(W/)?"[0-9a-z]{1,20}"(, ?(W/)?"[0-9a-z]{1,20}"){0,63})$"#
    )]
    if_match: Option<String>,
    /// Write only if the key has none of these ETags; with `*` if it does not exist.
    #[param(
        rename = "If-None-Match",
        pattern = r#"^(\*|(W/)?"[0-9a-z]{1,20}"(, ?(W/)?"[0-9a-z]{1,20}"){0,63})$"#
    )]
    if_none_match: Option<String>,
}

/// What `If-Match` or `If-None-Match` lists.
enum Tags {
    /// `*`: whatever there is.
    Any,
    /// Revisions; `true` for a weak tag. Tags that are no revisions are left out: they match nothing.
    These(Vec<(u64, bool)>),
}

/// A revision as an entity tag.
pub(super) fn etag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).unwrap_or_else(|_| HeaderValue::from(revision))
}

/// What `If-Match` and `If-None-Match` ask of a key before it is written.
pub(super) fn of_write(headers: &HeaderMap) -> Result<Vec<Expect>, Problem> {
    let mut only_if = Vec::new();
    match tags(headers, &IF_MATCH)? {
        None => {}
        Some(Tags::Any) => only_if.push(Expect::Exists),
        Some(Tags::These(tags)) => {
            // Compared strongly: a weak tag never matches.
            let strong = tags.into_iter().filter(|(_, weak)| !weak);
            only_if.push(Expect::Revisions(strong.map(|(revision, _)| revision).collect()));
        }
    }
    match tags(headers, &IF_NONE_MATCH)? {
        None => {}
        Some(Tags::Any) => only_if.push(Expect::Absent),
        Some(Tags::These(tags)) => {
            only_if.push(Expect::NotRevisions(tags.into_iter().map(|(revision, _)| revision).collect()));
        }
    }
    Ok(only_if)
}

/// Whether `If-None-Match` of a read lists `revision`, so that the client has it already.
pub(super) fn has_already(headers: &HeaderMap, revision: u64) -> Result<bool, Problem> {
    Ok(match tags(headers, &IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::These(tags)) => tags.iter().any(|(tag, _)| *tag == revision),
    })
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut given = headers.get_all(name).iter().peekable();
    if given.peek().is_none() {
        return Ok(None);
    }
    let wrong = |what: &str| Problem::new(Code::InvalidHeader, format!("{name}: {what}"));
    let mut tags = Vec::new();
    let mut count = 0;
    for line in given {
        let line = line.to_str().map_err(|_| wrong("not visible ASCII"))?.trim();
        if line == "*" {
            return Ok(Some(Tags::Any));
        }
        for tag in line.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            count += 1;
            if count > TAGS_MAX {
                return Err(wrong(&format!("more than {TAGS_MAX} entity tags")));
            }
            let (opaque, weak) = match tag.strip_prefix("W/") {
                Some(opaque) => (opaque, true),
                None => (tag, false),
            };
            let inner = opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let inner = inner.ok_or_else(|| wrong(&format!("{tag} is not in quotes, like \"5\"")))?;
            // "05" is another tag than "5".
            if let Some(revision) = inner.parse().ok().filter(|revision: &u64| revision.to_string() == inner)
            {
                tags.push((revision, weak));
            }
        }
    }
    if count == 0 {
        return Err(wrong("empty"));
    }
    Ok(Some(Tags::These(tags)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn of_writes() {
        let cases = [
            (vec![], Ok(vec![])),
            (vec![(IF_MATCH, "\"5\"")], Ok(vec![Expect::Revisions(vec![5])])),
            (vec![(IF_MATCH, "\"5\", \"7\" ,\"x\",\"05\"")], Ok(vec![Expect::Revisions(vec![5, 7])])),
            (vec![(IF_MATCH, "\"5\""), (IF_MATCH, "\"6\"")], Ok(vec![Expect::Revisions(vec![5, 6])])),
            (vec![(IF_MATCH, "W/\"5\"")], Ok(vec![Expect::Revisions(vec![])])),
            (vec![(IF_MATCH, "*")], Ok(vec![Expect::Exists])),
            (vec![(IF_NONE_MATCH, "*")], Ok(vec![Expect::Absent])),
            (vec![(IF_NONE_MATCH, "W/\"5\"")], Ok(vec![Expect::NotRevisions(vec![5])])),
            (
                vec![(IF_MATCH, "*"), (IF_NONE_MATCH, "\"5\"")],
                Ok(vec![Expect::Exists, Expect::NotRevisions(vec![5])]),
            ),
            (vec![(IF_MATCH, "5")], Err("if-match: 5 is not in quotes, like")),
            (vec![(IF_MATCH, "")], Err("if-match: empty")),
            (vec![(IF_NONE_MATCH, "\"")], Err("is not in quotes, like")),
        ];
        for (given, expected) in cases {
            match (of_write(&headers(&given)), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{given:?}"),
                (Err(problem), Err(expected)) => {
                    assert!(format!("{problem:?}").contains(expected), "{given:?}: {problem:?}");
                }
                (got, _) => panic!("{given:?}: {got:?}"),
            }
        }
        let many = HeaderValue::try_from(vec!["\"1\""; 65].join(",")).unwrap();
        let headers = HeaderMap::from_iter([(IF_MATCH, many)]);
        assert!(format!("{:?}", of_write(&headers).unwrap_err()).contains("more than 64 entity tags"));
    }

    #[test]
    fn of_reads() {
        for (value, expected) in
            [("\"5\"", true), ("\"4\", W/\"5\"", true), ("*", true), ("\"4\"", false), ("\"abc\"", false)]
        {
            assert_eq!(has_already(&headers(&[(IF_NONE_MATCH, value)]), 5).unwrap(), expected, "{value}");
        }
        assert!(!has_already(&HeaderMap::new(), 5).unwrap());
    }
}
