//! Writers that keep account of what they were told, and the check of that account.
//!
//! Each writer sends one write at a time to one node and never the same one twice: a key of its own,
//! or the next age of a name of its own. So a reader can tell a lost write (missing), a doubled one
//! (an age twice) and a reordered one (ages not ascending) from what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use tokio::task::{JoinHandle, JoinSet};

use crate::http::{Client, Outcome};
use crate::{seed, wait};

/// Pause after a write that was not applied, so that a node that is down is not asked in a tight loop.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);
/// The largest age the API takes: a name's ages are numbered 0 to this, then comes a next name.
const AGE_MAX: u8 = 150;
/// The longest value written, in bytes.
const VALUE_BYTES_MAX: usize = 300;
/// Reads in flight during a check.
const READERS: usize = 16;

/// A key that was written once.
#[derive(Clone, Debug)]
pub struct KeyWrite {
    /// The key.
    pub key: String,
    /// The value sent.
    pub value: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Everything that writers sent and were told.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Each key, written once.
    pub keys: Vec<KeyWrite>,
    /// By name, the ages sent, in order: each one only once.
    pub ages: BTreeMap<String, Vec<(u8, Outcome)>>,
}

/// Writers at work, some on each node.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    /// Acknowledged writes, by node.
    acknowledged: Vec<Arc<AtomicU64>>,
    writers: Vec<JoinHandle<Ledger>>,
}

impl Workload {
    /// Starts `writers` of them on each of `clients`. `round` begins every key and name, and must
    /// not be used twice on a cluster.
    #[must_use]
    pub fn start(clients: &[Client], writers: usize, round: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Vec<_> = clients.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
        let mut handles = Vec::with_capacity(clients.len() * writers);
        for (client, acknowledged) in clients.iter().zip(&acknowledged) {
            for _ in 0..writers {
                let number = handles.len();
                let (client, acknowledged, stop) = (client.clone(), acknowledged.clone(), stop.clone());
                let prefix = format!("{round}-w{number}");
                handles.push(tokio::spawn(write_until(client, prefix, number as u64, acknowledged, stop)));
            }
        }
        Self { stop, acknowledged, writers: handles }
    }

    /// Waits until `count` more writes were acknowledged by each of the `nodes` (indexes of the
    /// clients given at the start).
    ///
    /// # Errors
    /// When that takes longer than `bound`.
    pub async fn wait_acknowledged(&self, nodes: &[usize], count: u64, bound: Duration) -> Result<()> {
        let now = |node: usize| self.acknowledged[node].load(Ordering::Relaxed);
        let before: Vec<u64> = nodes.iter().map(|node| now(*node)).collect();
        wait::until(bound, "writes acknowledged by each node", async || {
            let more: Vec<u64> =
                nodes.iter().zip(&before).map(|(node, before)| now(*node) - before).collect();
            if more.iter().all(|more| *more >= count) { Ok(()) } else { Err(format!("{more:?} of {count}")) }
        })
        .await
    }

    /// Ends the writers after the write each has in flight, and gives their accounts as one.
    ///
    /// # Errors
    /// When a writer panicked.
    pub async fn stop(self) -> Result<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        for writer in self.writers {
            let ledger = writer.await.context("a writer")?;
            all.keys.extend(ledger.keys);
            all.ages.extend(ledger.ages);
        }
        Ok(all)
    }
}

async fn write_until(
    client: Client,
    prefix: String,
    stream: u64,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Ledger {
    let mut random = seed::random(stream);
    let mut ledger = Ledger::default();
    let mut appended: usize = 0;
    while !stop.load(Ordering::Relaxed) {
        let outcome = if random.random_bool(0.5) {
            let key = format!("{prefix}/{}", ledger.keys.len());
            let value = format!("{key}:{}", "v".repeat(random.random_range(0..VALUE_BYTES_MAX)));
            let outcome = client.put_key(&key, &value).await;
            ledger.keys.push(KeyWrite { key, value, outcome });
            outcome
        } else {
            let (batch, age) = (appended / (AGE_MAX as usize + 1), appended % (AGE_MAX as usize + 1));
            let age = u8::try_from(age).unwrap_or(AGE_MAX);
            let name = format!("{prefix}-{batch}");
            let outcome = client.put_age(&name, age).await;
            ledger.ages.entry(name).or_default().push((age, outcome));
            appended += 1;
            outcome
        };
        match outcome {
            Outcome::Acknowledged => _ = acknowledged.fetch_add(1, Ordering::Relaxed),
            Outcome::NotApplied => tokio::time::sleep(REFUSED_PAUSE).await,
            Outcome::Unknown => {}
        }
    }
    ledger
}

impl Ledger {
    /// How many writes had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        let keys = self.keys.iter().filter(|write| write.outcome == outcome).count();
        keys + self.ages.values().flatten().filter(|(_, of)| *of == outcome).count()
    }

    /// Reads everything back through one node, linearizable: each acknowledged write is there, in
    /// the order it was acknowledged within a name; none is there twice; none that was refused is
    /// there at all. One with an unknown outcome may be there.
    ///
    /// # Errors
    /// Names the first writes for which that does not hold, or the read that failed.
    pub async fn check(&self, client: &Client) -> Result<()> {
        let mut readers = JoinSet::new();
        let (keys, ages) = (Arc::new(self.keys.clone()), Arc::new(self.ages.clone()));
        for part in 0..READERS {
            let (client, keys, ages) = (client.clone(), keys.clone(), ages.clone());
            readers.spawn(async move {
                let mut wrong = Vec::new();
                for write in keys.iter().skip(part).step_by(READERS) {
                    wrong.extend(wrong_key(write, client.key(&write.key).await?.as_deref()));
                }
                for (name, sent) in ages.iter().skip(part).step_by(READERS) {
                    wrong.extend(
                        wrong_ages(sent, &client.ages(name).await?).map(|what| format!("{name}: {what}")),
                    );
                }
                Ok::<_, anyhow::Error>(wrong)
            });
        }
        let mut wrong = Vec::new();
        while let Some(part) = readers.join_next().await {
            wrong.extend(part.context("a reader")??);
        }
        ensure!(wrong.is_empty(), "{} wrong, the first: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
        Ok(())
    }
}

fn wrong_key(write: &KeyWrite, found: Option<&str>) -> Option<String> {
    let right = match (write.outcome, found) {
        (Outcome::Acknowledged | Outcome::Unknown, Some(value)) => value == write.value,
        (Outcome::Acknowledged, None) => false,
        (Outcome::NotApplied, found) => found.is_none(),
        (Outcome::Unknown, None) => true,
    };
    (!right).then(|| format!("{}: {:?}, found {found:?}", write.key, write.outcome))
}

fn wrong_ages(sent: &[(u8, Outcome)], found: &[u8]) -> Option<String> {
    match ages_agree(sent, found) {
        Ok(()) => None,
        Err(error) => Some(format!("{error}; found {found:?}")),
    }
}

fn ages_agree(sent: &[(u8, Outcome)], found: &[u8]) -> Result<()> {
    let with = |outcome| sent.iter().filter(move |(_, of)| *of == outcome).map(|(age, _)| *age);
    let distinct: BTreeSet<u8> = found.iter().copied().collect();
    ensure!(distinct.len() == found.len(), "an age is there twice");
    let acknowledged: Vec<u8> = with(Outcome::Acknowledged).collect();
    let unknown: BTreeSet<u8> = with(Outcome::Unknown).collect();
    let certain: Vec<u8> = found.iter().copied().filter(|age| !unknown.contains(age)).collect();
    if certain != acknowledged {
        bail!("acknowledged, in this order: {acknowledged:?}; unknown: {unknown:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Outcome::{Acknowledged, NotApplied, Unknown};
    use super::*;

    #[test]
    fn ages_agree_only_with_what_was_told() {
        let sent = [(0, Acknowledged), (1, Unknown), (2, NotApplied), (3, Acknowledged)];
        for good in [&[0, 3][..], &[0, 1, 3]] {
            assert_eq!(wrong_ages(&sent, good), None, "{good:?}");
        }
        for bad in [&[0][..], &[3, 0], &[0, 3, 3], &[0, 1, 1, 3], &[0, 2, 3], &[0, 3, 4], &[]] {
            assert!(wrong_ages(&sent, bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn keys_agree_only_with_what_was_told() {
        let write = |outcome| KeyWrite { key: "k".into(), value: "v".into(), outcome };
        for (outcome, found, right) in [
            (Acknowledged, Some("v"), true),
            (Acknowledged, Some("w"), false),
            (Acknowledged, None, false),
            (NotApplied, None, true),
            (NotApplied, Some("v"), false),
            (Unknown, None, true),
            (Unknown, Some("v"), true),
            (Unknown, Some("w"), false),
        ] {
            assert_eq!(wrong_key(&write(outcome), found).is_none(), right, "{outcome:?} {found:?}");
        }
    }
}
