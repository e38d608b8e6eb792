//! What is held back, for how long, and what is never lost.

use futures_util::FutureExt;
use openraft::EntryPayload;
use tokio::sync::mpsc;

use super::*;
use crate::types::{Entry, Vote};

fn id(index: u64) -> LogId {
    LogId::new_term_index(1, index)
}

/// A request behind entry `prev` with the entries up to `last`, when `committed` is committed.
fn request(prev: u64, last: u64, committed: u64) -> Request {
    AppendEntriesRequest {
        vote: Vote::new_committed(1, 1),
        prev_log_id: Some(id(prev)),
        leader_commit: Some(id(committed)),
        entries: (prev + 1..=last)
            .map(|index| Entry { log_id: id(index), payload: EntryPayload::Blank })
            .collect(),
    }
}

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

/// A session, and where its requests come from.
fn session(
    held_max: Duration,
) -> (mpsc::UnboundedSender<Request>, Commits<impl Stream<Item = Request> + Unpin>) {
    let (sender, queue) = mpsc::unbounded_channel();
    let queue =
        futures_util::stream::unfold(queue, |mut queue: mpsc::UnboundedReceiver<Request>| async move {
            queue.recv().await.map(|request| (request, queue))
        });
    (sender, Commits::new(Box::pin(queue), held_max))
}

/// Term of the vote, log index before the entries, number of entries, commit: openraft's requests cannot be compared.
type Parts = (u64, Option<u64>, usize, Option<u64>);

fn parts(request: &Request) -> Parts {
    let (prev, committed) =
        (request.prev_log_id.map(|id| id.index), request.leader_commit.map(|id| id.index));
    (request.vote.leader_id.term, prev, request.entries.len(), committed)
}

/// The next request.
async fn next<S: Stream<Item = Request> + Unpin>(commits: &mut Commits<S>, wanted: &Wanted) -> Option<Parts> {
    commits.next(wanted).await.as_ref().map(parts)
}

/// The next request, which must not take any time.
fn at_once<S: Stream<Item = Request> + Unpin>(commits: &mut Commits<S>, wanted: &Wanted) -> Option<Parts> {
    next(commits, wanted).now_or_never().expect("it was held")
}

#[tokio::test]
async fn a_commit_travels_with_the_entries_that_come_next() {
    let (sender, mut commits) = session(LONG);
    let wanted = Wanted::default();
    sender.send(request(0, 3, 0)).unwrap();
    assert_eq!(at_once(&mut commits, &wanted), Some(parts(&request(0, 3, 0))));
    for held in [request(3, 3, 2), request(3, 3, 3)] {
        sender.send(held).unwrap();
        assert!(next(&mut commits, &wanted).now_or_never().is_none(), "nothing but a commit is held");
    }
    sender.send(request(3, 5, 3)).unwrap();
    assert_eq!(at_once(&mut commits, &wanted), Some(parts(&request(3, 5, 3))));
}

#[tokio::test]
async fn nothing_is_held_for_long() {
    let (sender, mut commits) = session(HELD_MAX);
    let wanted = Wanted::default();
    sender.send(request(0, 3, 0)).unwrap();
    at_once(&mut commits, &wanted);
    sender.send(request(3, 3, 1)).unwrap();
    sender.send(request(3, 3, 2)).unwrap();
    // Nothing more comes, and it goes; the newest of the two.
    assert_eq!(next(&mut commits, &wanted).await, Some(parts(&request(3, 3, 2))));
    // The last one goes, too, when there will be no more.
    sender.send(request(3, 3, 3)).unwrap();
    drop(sender);
    assert_eq!(at_once(&mut commits, &wanted), Some(parts(&request(3, 3, 3))));
    assert_eq!((at_once(&mut commits, &wanted), at_once(&mut commits, &wanted)), (None, None));
}

/// The first asks where the follower stands, and what does not follow on the one before has to be seen by it.
#[tokio::test]
async fn only_what_is_no_more_than_news_is_held() {
    let (sender, mut commits) = session(LONG);
    let wanted = Wanted::default();
    for request in [request(3, 3, 3), request(2, 2, 3), request(2, 4, 4)] {
        sender.send(request.clone()).unwrap();
        assert_eq!(at_once(&mut commits, &wanted), Some(parts(&request)));
    }
    // What tells something else does not take the place of what is held.
    let other_vote = Request { vote: Vote::new_committed(2, 1), ..request(4, 4, 6) };
    for other in [request(3, 5, 6), request(4, 5, 4), other_vote] {
        sender.send(request(4, 4, 5)).unwrap();
        sender.send(other.clone()).unwrap();
        sender.send(request(0, 4, 5)).unwrap();
        assert_eq!(at_once(&mut commits, &wanted), Some(parts(&request(4, 4, 5))));
        assert_eq!(next(&mut commits, &wanted).await, Some(parts(&other)));
        assert_eq!(at_once(&mut commits, &wanted), Some(parts(&request(0, 4, 5))));
    }
}

#[tokio::test]
async fn a_read_that_waits_gets_its_commit_at_once() {
    let (sender, mut commits) = session(LONG);
    let wanted = Wanted::default();
    sender.send(request(0, 9, 0)).unwrap();
    at_once(&mut commits, &wanted);
    // It waits already.
    wanted.raise(5);
    sender.send(request(9, 9, 5)).unwrap();
    assert_eq!(at_once(&mut commits, &wanted), Some(parts(&request(9, 9, 5))));
    // It comes while the commit is held.
    sender.send(request(9, 9, 6)).unwrap();
    {
        let mut held = std::pin::pin!(next(&mut commits, &wanted));
        assert!(held.as_mut().now_or_never().is_none());
        wanted.raise(7);
        assert_eq!(held.now_or_never(), Some(Some(parts(&request(9, 9, 6)))));
    }
    // It waits for less than what is held: for nothing, as far as this goes.
    wanted.raise(3);
    sender.send(request(9, 9, 8)).unwrap();
    assert!(next(&mut commits, &wanted).now_or_never().is_none());
    wanted.raise(8);
    assert_eq!(
        next(&mut commits, &wanted).await,
        Some(parts(&request(9, 9, 8))),
        "lost when the wait was given up"
    );
}
