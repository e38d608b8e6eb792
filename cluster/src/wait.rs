//! Waiting for a condition, always with a bound.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Pause between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Looks every 20 ms until `look` gives `Ok`, and returns that.
///
/// # Errors
/// After `bound`: names `what` was waited for and the last reason `look` gave.
pub async fn until<T>(
    bound: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(reason) if started.elapsed() >= bound => bail!("{what}: not within {bound:?}: {reason}"),
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}
