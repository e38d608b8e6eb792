//! Streams that break, lie, stall, and are resumed.

use std::time::Duration;

use super::{Change, Event, Set, Step, WatchOptions};
use crate::client::{Client, Options};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::responder::{Ending, Reply, Responder, closed_endpoint, problem_after};

/// The end of the head, with the revision that the stream starts after.
fn head(revision: u64) -> String {
    format!("Hearth-Revision: {revision}\r\n\r\n")
}

fn put(id: &str, key: &str) -> String {
    let revision = id.split('.').next().unwrap();
    format!(
        "event: put\nid: {id}\ndata: {{\"key\":\"{key}\",\"revision\":{revision},\"created_revision\":2,\
         \"created\":false,\"content_type\":null,\"size\":2,\"value\":\"AP8=\"}}\n\n"
    )
}

fn gone(event: &str, id: &str, key: &str) -> String {
    format!("event: {event}\nid: {id}\ndata: {{\"key\":\"{key}\",\"revision\":{id}}}\n\n")
}

fn stream(parts: &[&str], ending: Ending) -> Reply {
    Reply::Stream(parts.iter().map(|part| (*part).to_owned()).collect(), ending)
}

fn compacted(oldest: u64) -> Reply {
    let body = format!(
        r#"{{"title":"Title","status":410,"code":"compacted","detail":"oldest is {oldest}","retryable":false,"outcome":"not_applied"}}"#
    );
    let headers = vec![
        "Content-Type: application/problem+json".to_owned(),
        format!("Hearth-Oldest-Revision: {oldest}"),
    ];
    Reply::Answer("410 Gone", headers, body.into_bytes())
}

fn client(endpoints: &[&Endpoint]) -> Client {
    let endpoints = endpoints.iter().map(|endpoint| (*endpoint).clone()).collect();
    Client::new(endpoints, Options { request_timeout: Duration::from_secs(2), ..Options::default() }).unwrap()
}

fn after(id: &str) -> WatchOptions {
    WatchOptions { after: Some(id.to_owned()), ..WatchOptions::default() }
}

/// The ids and keys of the next events.
async fn next_events(watch: &mut super::Watch, count: usize) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while found.len() < count {
        let event = watch.next_event().await.unwrap();
        found.push((event.id, event.key));
    }
    found
}

fn resumed_after(server: &Responder) -> Vec<Option<String>> {
    let header = |line: &String| line.strip_prefix("last-event-id: ").map(str::to_owned);
    server.asked().iter().map(|asked| asked.headers.iter().find_map(header)).collect()
}

#[tokio::test]
async fn events_come_as_they_were_sent() {
    let set = "event: put\nid: 7\ndata: {\"key\":\"a\\nb\",\"revision\":7,\"created_revision\":7,\"created\":true,\
               \"content_type\":\"text/plain\",\"size\":5,\"expires_in_ms\":1500}\n\n";
    let all = [&head(5), ": hello\n\n", set, &gone("delete", "8", "k"), &gone("expire", "9", "l")].concat();
    // Whole, and byte by byte.
    let bytes: Vec<String> = all.chars().map(String::from).collect();
    for parts in [vec![all], bytes] {
        let server = Responder::start(vec![Reply::Stream(parts, Ending::Silent)]).await;
        let options = WatchOptions { prefix: "a/b c".into(), values: false, ..WatchOptions::default() };
        let mut watch = server.client().watch(options);
        assert_eq!(watch.last_id(), None);
        let opened = Step::Opened { endpoint: server.endpoint.clone(), revision: Some(5) };
        assert_eq!(watch.next().await.unwrap(), opened);
        assert_eq!(watch.last_id(), Some("5"));
        let set = Set {
            created: true,
            created_revision: 7,
            content_type: Some("text/plain".into()),
            size: 5,
            expires_in: Some(Duration::from_millis(1500)),
            value: None,
        };
        for (id, key, change) in
            [("7", "a\nb", Change::Put(set)), ("8", "k", Change::Delete), ("9", "l", Change::Expire)]
        {
            let revision = id.parse().unwrap();
            let event = Event { id: id.into(), key: key.into(), revision, change };
            assert_eq!(watch.next().await.unwrap(), Step::Event(event));
            assert_eq!(watch.last_id(), Some(id));
        }
        assert_eq!(server.lines(), ["GET /v1/watch?prefix=a%2Fb%20c&values=false"]);
        assert_eq!(resumed_after(&server), [None]);
    }
}

#[tokio::test]
async fn a_broken_stream_is_resumed_elsewhere_after_the_last_event() {
    // The third event of the first stream is cut off: its id must not count.
    let cut = put("8", "c");
    let cut = cut.split_at(cut.len() - 1).0;
    let first = stream(&[&head(5), &put("6.1", "a"), &put("6", "b"), cut], Ending::Closes);
    let second = stream(&[&head(6), &put("8", "c")], Ending::Silent);
    let (one, other) = (Responder::start(vec![first]).await, Responder::start(vec![second]).await);
    let mut watch = client(&[&one.endpoint, &other.endpoint]).watch(WatchOptions::default());
    assert!(matches!(watch.next().await.unwrap(), Step::Opened { .. }));
    for id in ["6.1", "6"] {
        let Step::Event(event) = watch.next().await.unwrap() else { panic!("no event") };
        assert_eq!(event.id, id);
    }
    let lost = Step::Lost { endpoint: one.endpoint.clone(), reason: "the stream ended".into() };
    assert_eq!(watch.next().await.unwrap(), lost);
    let again = Step::Opened { endpoint: other.endpoint.clone(), revision: Some(6) };
    assert_eq!(watch.next().await.unwrap(), again);
    assert_eq!(watch.next_event().await.unwrap().id, "8");
    assert_eq!((resumed_after(&one), resumed_after(&other)), (vec![None], vec![Some("6".to_owned())]));
}

#[tokio::test]
async fn a_heartbeat_moves_the_point_to_resume_after() {
    let first = stream(&[&head(5), ": heartbeat\nid: 17\n\n"], Ending::Closes);
    let second = stream(&[&head(17), &put("20", "a")], Ending::Silent);
    let server = Responder::start(vec![first, second]).await;
    let mut watch = server.client().watch(after("4.2"));
    assert_eq!(next_events(&mut watch, 1).await, [("20".to_owned(), "a".to_owned())]);
    let line = "GET /v1/watch?prefix=&after=4.2";
    assert_eq!(server.lines(), [line, line]);
    assert_eq!(resumed_after(&server), [None, Some("17".to_owned())]);
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_given_up() {
    let silent = Responder::start(vec![stream(&[&head(5), &put("6", "a")], Ending::Silent)]).await;
    let other = Responder::start(vec![stream(&[&head(6), &put("7", "b")], Ending::Silent)]).await;
    let options = WatchOptions { silence_max: Duration::from_millis(200), ..WatchOptions::default() };
    let mut watch = client(&[&silent.endpoint, &other.endpoint]).watch(options);
    assert_eq!(next_events(&mut watch, 1).await.len(), 1);
    let lost = Step::Lost { endpoint: silent.endpoint.clone(), reason: "nothing came for 200 ms".into() };
    assert_eq!(watch.next().await.unwrap(), lost);
    assert_eq!(next_events(&mut watch, 1).await, [("7".to_owned(), "b".to_owned())]);
}

#[tokio::test]
async fn comments_keep_a_stream_alive() {
    let parts: Vec<String> = [head(5)].into_iter().chain((0..2000).map(|_| ":\n\n".to_owned())).collect();
    let server = Responder::start(vec![Reply::Stream(parts, Ending::Silent)]).await;
    let options = WatchOptions { silence_max: Duration::from_millis(300), ..WatchOptions::default() };
    let mut watch = server.client().watch(options);
    watch.next().await.unwrap();
    let Step::Lost { reason, .. } = watch.next().await.unwrap() else { panic!("not lost") };
    assert_eq!(reason, "nothing came for 300 ms");
}

#[tokio::test]
async fn a_slow_reader_resumes_after_what_it_got() {
    let overflow = "event: overflow\nid: 99\ndata: {\"code\":\"overflow\",\"detail\":\"too slow\",\"resume_after\":\"99\"}\n\n";
    let first = stream(&[&head(5), &put("6", "a"), overflow], Ending::Closes);
    let server = Responder::start(vec![first, stream(&[&head(6), &put("7", "b")], Ending::Silent)]).await;
    let mut watch = server.client().watch(WatchOptions::default());
    assert_eq!(next_events(&mut watch, 1).await.len(), 1);
    let reason = "this reader was too slow: too slow".to_owned();
    assert_eq!(watch.next().await.unwrap(), Step::Lost { endpoint: server.endpoint.clone(), reason });
    assert_eq!(next_events(&mut watch, 1).await.len(), 1);
    assert_eq!(resumed_after(&server), [None, Some("6".to_owned())]);
}

#[tokio::test]
async fn when_events_were_missed_every_node_is_asked_once() {
    let (one, two) =
        (Responder::start(vec![compacted(70)]).await, Responder::start(vec![compacted(50)]).await);
    let longer = Responder::start(vec![stream(&[&head(5), &put("6", "a")], Ending::Silent)]).await;
    let mut watch = client(&[&one.endpoint, &two.endpoint, &longer.endpoint]).watch(after("5"));
    assert_eq!(next_events(&mut watch, 1).await.len(), 1);

    let all = || async { Responder::start(vec![compacted(70)]).await };
    let (one, two, down) =
        (all().await, Responder::start(vec![compacted(50)]).await, closed_endpoint().await);
    let mut watch = client(&[&one.endpoint, &two.endpoint, &down]).watch(after("5"));
    let error = watch.next().await.unwrap_err();
    assert!(matches!(&error, Error::Compacted { oldest: Some(50), .. }), "{error:?}");
    assert_eq!(error.to_string(), "events were missed: oldest is 50");
    assert_eq!((one.lines().len(), two.lines().len()), (1, 1));
}

#[tokio::test]
async fn a_node_that_is_busy_or_gone_is_left_for_another() {
    let busy = Responder::start(vec![problem_after("429 Too Many Requests", "overloaded", 60)]).await;
    let down = closed_endpoint().await;
    let good = Responder::start(vec![stream(&[&head(5), &put("6", "a")], Ending::Silent)]).await;
    let mut watch = client(&[&busy.endpoint, &down, &good.endpoint]).watch(WatchOptions::default());
    assert_eq!(next_events(&mut watch, 1).await.len(), 1);
}

#[tokio::test]
async fn a_watch_fails_at_once_when_nobody_is_there_and_in_the_end_when_nobody_comes_back() {
    let down = closed_endpoint().await;
    let error = client(&[&down]).watch(WatchOptions::default()).next().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");

    let server =
        Responder::start(vec![stream(&[&head(5)], Ending::Closes), Reply::Close, Reply::Close]).await;
    let options = WatchOptions { reconnect_timeout: Duration::from_millis(100), ..WatchOptions::default() };
    let mut watch = server.client().watch(options);
    watch.next().await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), Step::Lost { .. }));
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn streams_that_end_as_soon_as_they_begin_are_not_asked_for_in_a_tight_loop() {
    let server = Responder::start(vec![stream(&[&head(5)], Ending::Closes); 100]).await;
    let mut watch = server.client().watch(WatchOptions::default());
    let steps = async {
        loop {
            watch.next().await.unwrap();
        }
    };
    let bounded: Result<(), _> = tokio::time::timeout(Duration::from_millis(500), steps).await;
    assert!(bounded.is_err());
    // At once, and after at least 25, 50, 100, 200 ms.
    assert!((2..=6).contains(&server.lines().len()), "{:?}", server.lines());
}

#[tokio::test]
async fn what_makes_no_sense_is_an_error_that_names_the_node() {
    let large = format!("event: put\nid: 6\ndata: {}\n\n", "x".repeat(200));
    for (events, expected) in [
        (format!("{}{}", put("7", "a"), put("6", "b")), "an event of revision 6 came after 7"),
        (
            "event: put\nid: 6\ndata: {}\n\n".to_owned(),
            "the data of an event \"put\" is not as expected: missing",
        ),
        ("event: delete\ndata: {\"key\":\"k\",\"revision\":6}\n\n".to_owned(), "an event has no id"),
        (large, "an event has more than 150 bytes"),
    ] {
        let server = Responder::start(vec![stream(&[&head(5), &events], Ending::Silent)]).await;
        let options = WatchOptions { event_bytes_max: 150.try_into().unwrap(), ..WatchOptions::default() };
        let mut watch = server.client().watch(options);
        let error = loop {
            match watch.next().await {
                Ok(_) => {}
                Err(error) => break error.to_string(),
            }
        };
        assert!(
            error.starts_with(&format!("unexpected answer from {}: {expected}", server.endpoint)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn events_of_a_newer_server_are_skipped() {
    let events = format!("event: lease\nid: 6\ndata: [1]\n\nretry: 5\n\n{}", put("7", "a"));
    let server = Responder::start(vec![stream(&[&head(5), &events], Ending::Silent)]).await;
    let mut watch = server.client().watch(WatchOptions::default());
    assert_eq!(next_events(&mut watch, 1).await, [("7".to_owned(), "a".to_owned())]);
}

#[tokio::test]
async fn nothing_is_lost_when_the_caller_stops_waiting() {
    let (first, rest) = (put("6", "a"), put("7", "b"));
    let (begun, end) = rest.split_at(20);
    let server = Responder::start(vec![stream(&[&head(5), &first, begun, end], Ending::Silent)]).await;
    let mut watch = server.client().watch(WatchOptions::default());
    watch.next().await.unwrap();
    let mut ids = Vec::new();
    while ids.len() < 2 {
        // Polled once and dropped, again and again.
        tokio::select! {
            biased;
            event = watch.next_event() => ids.push(event.unwrap().id),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(ids, ["6", "7"]);
    assert_eq!(server.lines().len(), 1);
}
