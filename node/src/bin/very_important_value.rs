//! `very_important_value [LOCK]`: waits for a lock file, then exits with a random status 0..=99.
//!
//! The lock file is the first argument, else what the variable `VERY_IMPORTANT_LOCK` names, else
//! `/tmp/very_important_value.lock`. While it is missing the program looks again after a second, three
//! times at most. See [`hearth_node::compute::very_important_value`].
//!
//! It begins at C's `main`, not at Rust's: what the standard library prepares before that (it reads
//! `/proc/self/maps` for the bounds of the stack, and installs handlers for its overflow) is a tenth of what a
//! start costs, and nothing here needs it.
#![no_main]

use std::ffi::c_int;

use hearth_node::compute::very_important_value;

/// What the C library starts. The arguments are those that the standard library has noted already.
#[allow(unsafe_code, reason = "it is the only symbol of this name, and of the type that C wants")]
#[unsafe(no_mangle)]
pub extern "C" fn main() -> c_int {
    very_important_value::run(std::env::args_os().skip(1)).into()
}
