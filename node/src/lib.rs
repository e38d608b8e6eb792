//! The Hearth node.

pub mod compute;
pub mod dev;
