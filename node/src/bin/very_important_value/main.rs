//! `very_important_value [LOCK]`: waits for a lock file, then exits with a random status 0..=99.
//!
//! The lock file is the first argument, else what the variable `VERY_IMPORTANT_LOCK` names, else
//! `/tmp/very_important_value.lock`. While it is missing the program looks again after a second, three
//! times at most. See `hearth_node::compute::very_important_value`.
//!
//! What it costs is its start, thousands of times a second: so where it can it does without everything that a
//! start consists of, see [`start`].
#![cfg_attr(freestanding, no_main)]
// Else loops over bytes may become calls of the C library, which is not there.
#![cfg_attr(freestanding, no_builtins)]

#[cfg(freestanding)]
mod start;
#[cfg(freestanding)]
#[path = "../../compute/very_important_value/steps.rs"]
mod steps;

#[cfg(not(freestanding))]
fn main() -> std::process::ExitCode {
    hearth_node::compute::very_important_value::run(std::env::args_os().skip(1)).into()
}
