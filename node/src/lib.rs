//! The Hearth node.

pub mod dev;
