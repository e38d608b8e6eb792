//! Every answer there is, and every way to get none, for each kind of request.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Next::{Again, Elsewhere, Stop};
use super::{Ended, Kind, Turns, pause};
use crate::error::{Outcome, Problem};

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

/// Every code of the API, as `x-codes` in `/openapi.json` has them: `cluster/tests/error_codes.rs` compares them.
const CODES: &str = include_str!("codes.json");

#[derive(serde::Deserialize)]
struct Described {
    status: u16,
    retryable: bool,
    outcome: Outcome,
    retry_after: bool,
}

/// A problem for each code, and for one that a proxy may answer with.
fn problems() -> Vec<Problem> {
    let mut codes: BTreeMap<String, Described> = serde_json::from_str(CODES).unwrap();
    let refused =
        Described { status: 401, retryable: false, outcome: Outcome::NotApplied, retry_after: false };
    codes.insert("unauthorized".to_owned(), refused);
    assert!(codes.len() > 25);
    codes
        .iter()
        .map(|(code, as_is)| problem(as_is.status, code, as_is.retryable, as_is.outcome, as_is.retry_after))
        .collect()
}

fn problem(status: u16, code: &str, retryable: bool, outcome: Outcome, retry_after: bool) -> Problem {
    Problem {
        status,
        title: "Title".into(),
        detail: String::new(),
        code: code.into(),
        retryable,
        outcome,
        request_id: String::new(),
        retry_after: SECOND.filter(|_| retry_after),
        current_revision: None,
        oldest_revision: None,
    }
}

#[test]
fn every_refusal_and_every_kind_of_request() {
    for problem in problems() {
        let next = |kind: Kind| kind.next(&Ended::Refused(&problem));
        // The same for all, but for the one that leaves it open whether it was applied.
        let (read, write, once) = match problem.code.as_str() {
            "overloaded" | "no_leader" | "revision_not_reached" => {
                (Again(SECOND), Again(SECOND), Again(SECOND))
            }
            "client_timeout" | "program_failed" | "program_timeout" | "storage_full" => {
                (Elsewhere, Elsewhere, Elsewhere)
            }
            "outcome_unknown" => (Stop, Stop, Again(None)),
            _ => (Stop, Stop, Stop),
        };
        let found = [Kind::Read, Kind::Compute, Kind::Write, Kind::WriteOnce].map(next);
        assert_eq!(found, [read, read, write, once], "{problem:?}");
    }
}

/// After a lost attempt these tell what became of it; the others do not. A code that is in neither list is new.
#[test]
fn every_code_settles_a_write_or_does_not() {
    let settling = [
        "body_too_large",
        "headers_too_large",
        "idempotency_key_reused",
        "integer_overflow",
        "invalid_age",
        "invalid_body",
        "invalid_header",
        "invalid_key",
        "invalid_name",
        "invalid_parameter",
        "invalid_request",
        "key_not_found",
        "key_too_long",
        "not_an_integer",
        "precondition_failed",
        "prefix_too_large",
        "result_too_large",
        "uri_too_long",
    ];
    let open = [
        "client_timeout",
        "compacted",
        "internal",
        "method_not_allowed",
        "no_leader",
        "not_found",
        "outcome_unknown",
        "overloaded",
        "program_failed",
        "program_timeout",
        "revision_not_reached",
        "storage_full",
        "unauthorized",
    ];
    let (settle, leave): (Vec<Problem>, Vec<Problem>) = problems().into_iter().partition(Problem::settles);
    let codes = |problems: Vec<Problem>| problems.into_iter().map(|problem| problem.code).collect::<Vec<_>>();
    assert_eq!(codes(settle), settling);
    assert_eq!(codes(leave), open);
}

#[test]
fn a_server_that_contradicts_itself_is_taken_at_its_worst() {
    // Retryable and unknown: only where it is harmless.
    let problem = problem(504, "new_code", true, Outcome::Unknown, true);
    let next = |kind: Kind| kind.next(&Ended::Refused(&problem));
    assert_eq!(next(Kind::Read), Again(SECOND));
    assert_eq!(next(Kind::Write), Stop);
    assert_eq!(next(Kind::WriteOnce), Again(SECOND));
}

#[test]
fn without_an_answer_it_depends_on_whether_the_request_left() {
    for (kind, lost) in [
        (Kind::Read, Again(None)),
        (Kind::Compute, Again(None)),
        (Kind::Write, Stop),
        (Kind::WriteOnce, Again(None)),
    ] {
        assert_eq!(kind.next(&Ended::NotSent), Again(None), "{kind:?}");
        assert_eq!(kind.next(&Ended::Lost), lost, "{kind:?}");
    }
}

#[test]
fn pauses_double_up_to_a_second_and_vary_by_half() {
    let ms = |failures, random| pause(failures, random).as_millis();
    assert_eq!([1, 2, 3, 4, 5, 6, 40].map(|n| ms(n, 1.0)), [50, 100, 200, 400, 800, 1000, 1000]);
    assert_eq!([1, 5, 6].map(|n| ms(n, 0.0)), [25, 400, 500]);
    assert_eq!(ms(2, 0.5), 75);
}

#[test]
fn each_endpoint_has_a_turn_at_once_and_then_after_its_pause() {
    let now = Instant::now();
    let mut turns = Turns::new(3, 1, now);
    for (step, expected) in [1, 2, 0].into_iter().enumerate() {
        assert!(!turns.all_asked());
        assert_eq!(turns.next(), Some((expected, now)));
        // The server's wish goes over the pause; a wish that is shorter does not.
        let wish = [Some(Duration::from_secs(2)), None, Some(Duration::from_millis(1))];
        turns.again(expected, now, wish[step], 1.0);
    }
    assert!(turns.all_asked());
    let after = |ms| now + Duration::from_millis(ms);
    assert_eq!(turns.next(), Some((2, after(50))));
    turns.again(2, after(50), None, 1.0);
    assert_eq!(turns.next(), Some((0, after(50))));
    turns.never(0);
    assert_eq!(turns.next(), Some((2, after(150))));
    turns.never(2);
    assert_eq!(turns.next(), Some((1, after(2000))));
    turns.never(1);
    assert_eq!(turns.next(), None);
}

#[test]
fn a_wish_beyond_all_time_is_the_end_of_it() {
    let now = Instant::now();
    let mut turns = Turns::new(1, 0, now);
    turns.again(0, now, Some(Duration::MAX), 0.0);
    assert_eq!(turns.next(), None);
}

#[test]
fn who_may_be_given_up_gets_a_share_of_the_time() {
    let now = Instant::now();
    let after = |ms| now + Duration::from_millis(ms);
    for kind in [Kind::Read, Kind::WriteOnce] {
        assert_eq!(kind.share(now, after(10_000), 3), after(5500));
        assert_eq!(kind.share(now, after(60_000), 3), after(6000));
        assert_eq!(kind.share(now, after(10_000), 1), after(10_000));
        assert_eq!(kind.share(now, after(150), 3), after(100));
        assert_eq!(kind.share(now, after(5), 3), after(5));
        assert_eq!(kind.share(after(10), after(5), 3), after(5));
    }
    for kind in [Kind::Compute, Kind::Write] {
        assert_eq!(kind.share(now, after(9000), 3), after(9000));
    }
}
