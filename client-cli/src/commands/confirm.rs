//! Asking before what cannot be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use super::failure::Failure;

/// Asks on stderr, and fails unless the answer is yes. [`Failure::Usage`] when there is no terminal to ask at.
pub(crate) fn confirm(question: &str) -> Result<(), Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::Usage(format!("{question} There is no terminal to answer at: pass --yes")));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if is_yes(&answer) { Ok(()) } else { Err(Failure::Failed("nothing was done".to_owned())) }
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::is_yes;

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("yep", false)]
        {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }
}
