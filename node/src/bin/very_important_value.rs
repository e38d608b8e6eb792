//! `very_important_value [LOCK]`: waits for a lock file, then exits with a random status 0..=99.
//!
//! The lock file is the first argument, else what the variable `VERY_IMPORTANT_LOCK` names, else
//! `/tmp/very_important_value.lock`. While it is missing the program looks again after a second, three
//! times at most. See [`hearth_node::compute::very_important_value`].

use std::process::ExitCode;

use hearth_node::compute::very_important_value;

fn main() -> ExitCode {
    very_important_value::run(std::env::args_os().skip(1)).into()
}
