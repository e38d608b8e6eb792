//! Whether a peer can be reached, as the person on call wants to know it: one line when it is lost, one now and
//! then while it stays away, and one when it is back.
//!
//! Raft tries again by itself, several times a second and on each [`Lane`]; that is not worth a line each.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::peer::Lane;
use crate::types::Member;

/// A peer is lost when a lane to it has failed for so long, and worked not once.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// From one reminder to the next.
const REMINDER_INTERVAL: Duration = Duration::from_secs(300);
/// A lane that has not been tried for so long says nothing any more: this node may have stopped leading.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// How the attempts to reach one member go.
pub(crate) struct Reach {
    pub(crate) member: Member,
    /// Whether `trouble` holds anything; it is looked at for every answer.
    is_troubled: AtomicBool,
    /// A std mutex, never held across an await.
    trouble: Mutex<Trouble>,
}

/// What does not work.
#[derive(Debug, Default)]
struct Trouble {
    failing: Vec<Failing>,
    /// Since when the peer is lost, and when that was said last.
    told: Option<(Instant, Instant)>,
}

/// A lane on which nothing has worked since.
#[derive(Debug)]
struct Failing {
    lane: Lane,
    since: Instant,
    last: Instant,
}

/// What is worth a line. Times are since the first failure.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Lost(Duration),
    StillLost(Duration),
    Back(Duration),
}

impl Reach {
    pub(crate) fn new(member: Member) -> Self {
        Self { member, is_troubled: AtomicBool::new(false), trouble: Mutex::default() }
    }

    /// An attempt on `lane` failed.
    pub(crate) fn failed(&self, lane: Lane, error: &dyn fmt::Display) {
        let mut trouble = self.lock();
        let news = trouble.failed(lane, Instant::now());
        self.is_troubled.store(true, Ordering::Relaxed);
        drop(trouble);
        let peer = &self.member;
        match news {
            Some(News::Lost(lasting)) => tracing::warn!(%peer, %lane, %error, ?lasting, "a peer is lost"),
            Some(News::StillLost(lasting)) => {
                tracing::warn!(%peer, %lane, %error, ?lasting, "a peer is still lost");
            }
            Some(News::Back(_)) | None => tracing::debug!(%peer, %lane, %error, "cannot reach a peer"),
        }
    }

    /// The peer answered on `lane`.
    pub(crate) fn answered(&self, lane: Lane) {
        if !self.is_troubled.load(Ordering::Relaxed) {
            return;
        }
        let mut trouble = self.lock();
        let news = trouble.answered(lane, Instant::now());
        self.is_troubled.store(!trouble.is_over(), Ordering::Relaxed);
        drop(trouble);
        if let Some(News::Back(after)) = news {
            tracing::info!(peer = %self.member, ?after, "a peer is back");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Trouble> {
        // Nothing in this file panics while it holds the lock.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trouble {
    fn failed(&mut self, lane: Lane, now: Instant) -> Option<News> {
        self.forget_stale(now);
        let since = match self.failing.iter_mut().find(|failing| failing.lane == lane) {
            Some(failing) => {
                failing.last = now;
                failing.since
            }
            None => {
                self.failing.push(Failing { lane, since: now, last: now });
                now
            }
        };
        match &mut self.told {
            None if now - since >= LOST_AFTER => {
                self.told = Some((since, now));
                Some(News::Lost(now - since))
            }
            Some((since, said)) if now - *said >= REMINDER_INTERVAL => {
                *said = now;
                Some(News::StillLost(now - *since))
            }
            _ => None,
        }
    }

    fn answered(&mut self, lane: Lane, now: Instant) -> Option<News> {
        self.forget_stale(now);
        self.failing.retain(|failing| failing.lane != lane);
        if !self.failing.is_empty() {
            return None;
        }
        self.told.take().map(|(since, _)| News::Back(now - since))
    }

    fn forget_stale(&mut self, now: Instant) {
        self.failing.retain(|failing| now - failing.last < STALE_AFTER);
    }

    fn is_over(&self) -> bool {
        self.failing.is_empty() && self.told.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of events at milliseconds from a beginning: `Err` is a failure, `Ok` an answer.
    fn said(events: &[(u64, Result<Lane, Lane>)]) -> Vec<(u64, News)> {
        let (begin, mut trouble) = (Instant::now(), Trouble::default());
        let mut said = Vec::new();
        for (ms, event) in events {
            let now = begin + Duration::from_millis(*ms);
            let news = match event {
                Ok(lane) => trouble.answered(*lane, now),
                Err(lane) => trouble.failed(*lane, now),
            };
            said.extend(news.map(|news| (*ms, news)));
        }
        said
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_line_when_lost_one_now_and_then_and_one_when_back() {
        let (vital, append) = (Lane::Vital, Lane::Append);
        let mut events: Vec<(u64, Result<Lane, Lane>)> = Vec::new();
        for tick in (0..700_000).step_by(100) {
            events.push((tick, Err(vital)));
            events.push((tick + 50, Err(append)));
        }
        events.push((700_000, Ok(vital)));
        events.push((700_100, Ok(append)));
        events.push((700_200, Ok(vital)));
        assert_eq!(
            said(&events),
            [
                (1000, News::Lost(ms(1000))),
                (301_000, News::StillLost(ms(301_000))),
                (601_000, News::StillLost(ms(601_000))),
                (700_100, News::Back(ms(700_100))),
            ]
        );
    }

    #[test]
    fn what_fails_now_and_then_or_comes_back_soon_is_no_news() {
        let (vital, append) = (Lane::Vital, Lane::Append);
        assert_eq!(said(&[(0, Err(vital)), (900, Err(vital)), (950, Ok(vital)), (1100, Err(vital))]), []);
        // Each lane for itself: one that works does not hide one that does not.
        let half =
            [(0, Err(append)), (500, Ok(vital)), (1000, Err(append)), (1100, Ok(vital)), (1200, Ok(append))];
        assert_eq!(said(&half), [(1000, News::Lost(ms(1000))), (1200, News::Back(ms(1200)))]);
        // One vote request at each election.
        assert_eq!(said(&[(0, Err(vital)), (60_000, Err(vital)), (120_000, Err(vital))]), []);
    }

    #[test]
    fn a_lane_that_is_not_used_any_more_keeps_nobody_lost() {
        let events = [
            (0, Err(Lane::Append)),
            (1500, Err(Lane::Append)),
            // This node leads no more, and later a vote is answered.
            (60_000, Ok(Lane::Vital)),
        ];
        assert_eq!(said(&events), [(1500, News::Lost(ms(1500))), (60_000, News::Back(ms(60_000)))]);
    }
}
