//! The vote that this node holds, for who must not wait for the log.

use std::sync::{Mutex, PoisonError};

use crate::codec::VoteV1;

/// The last vote that the log was given. Changes before the vote is durable, hence before it has any
/// effect: a vote is granted, and a term begun, only when it is on disk.
#[derive(Debug)]
pub(crate) struct HeldVote(Mutex<VoteV1>);

impl HeldVote {
    /// Nobody's vote in term 0 when there is none.
    pub(super) fn new(vote: Option<VoteV1>) -> Self {
        Self(Mutex::new(vote.unwrap_or(VoteV1 { term: 0, node_id: 0, committed: false })))
    }

    pub(super) fn set(&self, vote: VoteV1) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = vote;
    }

    pub(crate) fn get(&self) -> VoteV1 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
