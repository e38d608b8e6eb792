//! A closed loop that goes on until it is dropped: N connections, each sending its next request when
//! the last one was answered. Every answer is kept with its time, so that any interval can be looked at
//! afterwards.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use crate::load::Operation;
use crate::load::hearth::Connection;
use crate::load::request::Failure;
use crate::seed;

/// Pause after a failure, so that a server that is down is not asked in a tight loop.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// What a loop asks, of keys that are drawn uniformly.
#[derive(Clone, Debug)]
pub struct Load {
    /// What is asked for.
    pub operation: Operation,
    /// How many ask; connection i asks node i % nodes.
    pub connections: usize,
    /// Keys are numbers below this.
    pub keys: u32,
    /// Length of each value, in bytes.
    pub value_bytes: usize,
    /// How long a connection rests after each answer; zero loads as much as the servers take.
    pub pause: Duration,
}

/// A running loop.
#[derive(Debug)]
pub struct Loop {
    record: Arc<Mutex<Record>>,
    _drivers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Record {
    /// When each request was answered as it should be, and how long that took; in that order.
    answers: Vec<(Instant, Duration)>,
    errors: Vec<(Instant, String)>,
}

impl Loop {
    /// Connects to `nodes` and begins.
    ///
    /// # Errors
    /// When a node cannot be reached.
    pub async fn start(nodes: &[SocketAddr], load: &Load) -> Result<Self> {
        let record = Arc::new(Mutex::new(Record::default()));
        let mut drivers = JoinSet::new();
        for (address, number) in nodes.iter().cycle().take(load.connections).zip(0..) {
            let mut random = seed::random(number);
            let value: Vec<u8> = (0..load.value_bytes).map(|_| random.random()).collect();
            let connection = Connection::open(*address, load.operation, &value).await?;
            drivers.spawn(drive(connection, *address, load.clone(), value, random, Arc::clone(&record)));
        }
        Ok(Self { record, _drivers: drivers })
    }

    /// What was answered from `begin` until before `end`.
    #[must_use]
    pub fn between(&self, begin: Instant, end: Instant) -> Window {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let first = record.answers.partition_point(|(at, _)| *at < begin);
        let last = record.answers.partition_point(|(at, _)| *at < end);
        let within = |at: &Instant| (begin..end).contains(at);
        Window {
            elapsed: end - begin,
            took: record.answers[first..last].iter().map(|(_, took)| *took).collect(),
            errors: record.errors.iter().filter(|(at, _)| within(at)).map(|(_, text)| text.clone()).collect(),
        }
    }
}

async fn drive(
    mut connection: Connection,
    address: SocketAddr,
    load: Load,
    value: Vec<u8>,
    mut random: StdRng,
    record: Arc<Mutex<Record>>,
) {
    loop {
        let begun = Instant::now();
        let answer = connection.ask(random.random_range(0..load.keys)).await;
        let now = Instant::now();
        let note = |error: String| {
            record.lock().unwrap_or_else(PoisonError::into_inner).errors.push((now, error));
        };
        match answer {
            Ok(()) => {
                record.lock().unwrap_or_else(PoisonError::into_inner).answers.push((now, now - begun));
                if !load.pause.is_zero() {
                    tokio::time::sleep(load.pause).await;
                }
                continue;
            }
            Err(Failure::Refused(error)) => note(error),
            Err(Failure::Broken(error)) => {
                note(error);
                if let Ok(opened) = Connection::open(address, load.operation, &value).await {
                    connection = opened;
                }
            }
        }
        tokio::time::sleep(FAILURE_PAUSE).await;
    }
}

/// What was seen in an interval, or in several.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Length of the interval.
    pub elapsed: Duration,
    /// How long each request took that was answered as it should be.
    pub took: Vec<Duration>,
    /// What was answered to the others.
    pub errors: Vec<String>,
}

impl Window {
    /// Adds another interval.
    pub fn add(&mut self, other: Self) {
        self.elapsed += other.elapsed;
        self.took.extend(other.took);
        self.errors.extend(other.errors);
    }

    /// Answers a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.took.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The time within which the share `quantile` of the requests was answered, in ms; NaN of none.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let mut took = self.took.clone();
        took.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
        let at = (took.len() as f64 * quantile) as usize;
        took.get(at.min(took.len().saturating_sub(1))).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_rates_over_intervals() {
        let ms = Duration::from_millis;
        let mut window = Window { elapsed: ms(500), took: (1..=50).map(ms).collect(), errors: Vec::new() };
        window.add(Window { elapsed: ms(500), took: (51..=100).rev().map(ms).collect(), errors: Vec::new() });
        assert_eq!(window.rate(), 100.0);
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| window.quantile_ms(q)), [1.0, 51.0, 100.0, 100.0]);
        assert!(Window::default().quantile_ms(0.5).is_nan());
    }

    #[test]
    fn an_interval_has_what_was_answered_in_it() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let answers = (0..10).map(|n| (start + ms(n), ms(n))).collect();
        let errors = vec![(start + ms(3), "no".to_owned()), (start + ms(7), "no".to_owned())];
        let running =
            Loop { record: Arc::new(Mutex::new(Record { answers, errors })), _drivers: JoinSet::new() };
        let window = running.between(start + ms(2), start + ms(5));
        assert_eq!((window.took, window.errors.len(), window.elapsed), (vec![ms(2), ms(3), ms(4)], 1, ms(3)));
    }
}
