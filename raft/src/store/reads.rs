//! Reads that wait for a read index, and what they prove about the age of this node's view.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::coalesce::Coalesced;
use crate::freshness::Freshness;
use crate::state::{Published, View};
use crate::store::routes::{READ_INDEX_TIMEOUT, Routes};

/// A local read asks for a new proof of the view's age when the last one is older.
pub(super) const PROOF_AGE_WANTED: Duration = Duration::from_millis(250);

/// Reads that wait for a read index, and what they prove about the view.
pub(super) struct Reads {
    read_index: Coalesced<Result<u64, ()>>,
    published: Published,
    pub(super) freshness: Freshness,
    is_proving: AtomicBool,
}

impl Reads {
    pub(super) fn new(routes: Arc<Routes>, published: Published) -> Self {
        let read_index = Coalesced::new(move || {
            let routes = Arc::clone(&routes);
            async move { routes.read_index_once().await }
        });
        Self { read_index, published, freshness: Freshness::new(), is_proving: AtomicBool::new(false) }
    }

    /// A view with everything acknowledged before the call; `None` when no leader gave a read index.
    pub(super) async fn view(&self) -> Option<View> {
        let asked = std::time::Instant::now();
        let index = self.read_index.ask().await?.ok()?;
        let view = self.published.view_at(index).await;
        self.freshness.prove(asked);
        Some(view)
    }

    pub(super) fn prove_in_background(self: &Arc<Self>) {
        if self.is_proving.swap(true, Ordering::Relaxed) {
            return;
        }
        let reads = Arc::clone(self);
        tokio::spawn(async move {
            // Bounded, because a read index may be known that this node cannot reach.
            drop(tokio::time::timeout(READ_INDEX_TIMEOUT, reads.view()).await);
            reads.is_proving.store(false, Ordering::Relaxed);
        });
    }
}
