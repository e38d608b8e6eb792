//! Watching keys.

use crate::state::{EventId, Watcher};
use crate::store::{Store, WatchError};

impl Store {
    /// Watches the keys that begin with `prefix`: every change of them behind `after`, in the order of the log,
    /// each once. Events come when this node has applied them; so `after` may be from any node.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when this node's history does not go back that far; [`WatchError::Behind`]
    /// when it has not applied as much as `after` after the request timeout.
    pub async fn watch(&self, prefix: &str, after: EventId) -> Result<Watcher, WatchError> {
        if after.revision() > self.revision() {
            let mut applied = self.published.subscribe();
            let reached = applied.wait_for(|applied| *applied >= after.revision());
            if tokio::time::timeout(self.options.request_timeout, reached).await.is_err() {
                return Err(WatchError::Behind { wanted: after.revision(), applied: self.revision() });
            }
        }
        self.watches.watch(prefix, after).map_err(|oldest| WatchError::Compacted { after, oldest })
    }

    /// Ends all watchers, and those to come: they get [`Watched::Stopped`](crate::Watched::Stopped).
    pub fn end_watchers(&self) {
        self.watches.end();
    }

    /// The time by which times to live end, as this node knows it: milliseconds since the Unix epoch. Not
    /// behind what it has applied.
    pub fn now_ms(&self) -> u64 {
        self.routes.local.clock.now_ms().max(self.published.clock_ms())
    }
}
