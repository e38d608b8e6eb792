//! Real-process clusters.
