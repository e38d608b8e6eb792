//! The command line as it was typed, and what is said about a wrong one: a line, and a hint.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{Error, ErrorKind};

use super::Cli;

/// The command line of this process; else the exit code, after everything was said: the help on stdout, or
/// what is wrong on stderr.
pub fn parsed() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        // A closed stream leaves nowhere to complain to.
        let _ = match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.print(),
            _ => io::stderr().lock().write_all(message(&error).as_bytes()),
        };
        u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

/// The parser's error without its decoration.
fn message(error: &Error) -> String {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let what: Vec<&str> = paragraphs.next().unwrap_or_default().lines().map(str::trim).collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let lines = || text.lines().map(str::trim);
    // Not how to pass as a value what was hardly meant as one.
    let tip = lines().filter_map(|line| line.strip_prefix("tip: ")).find(|tip| !tip.starts_with("to pass "));
    let tip = tip.map(str::to_owned);
    let command = lines().find_map(|line| line.strip_prefix("Usage: ")).map(|usage| {
        // The words before the first placeholder.
        let words = usage.split(' ').take_while(|word| word.starts_with(|first: char| first.is_alphabetic()));
        words.collect::<Vec<_>>().join(" ")
    });
    let hint = tip.or(command.map(|command| format!("see `{command} --help`")));
    format!("hearth: {what}\n  hint: {}\n", hint.as_deref().unwrap_or("see --help"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::message;
    use crate::commands::Cli;

    #[test]
    fn wrong_usage_is_one_line_and_a_hint() {
        for (line, expected) in [
            (
                "kv put k",
                "hearth: the following required arguments were not provided: <VALUE|--file <FILE>>\n  hint: see \
                 `hearth kv put --help`\n",
            ),
            (
                "kv put k v --tll 3s",
                "hearth: unexpected argument '--tll' found\n  hint: a similar argument exists: '--ttl'\n",
            ),
            (
                "kv get k --idempotency-key x",
                "hearth: unexpected argument '--idempotency-key' found\n  hint: see `hearth kv get --help`\n",
            ),
            (
                "kv put k v --ttl soon",
                "hearth: invalid value 'soon' for '--ttl <DURATION>': expected a duration such as 500ms, 10s or \
                 2m\n  hint: see --help\n",
            ),
            (
                "kv put k v --if-match 7 --if-absent",
                "hearth: the argument '--if-match <REVISION>' cannot be used with '--if-absent'\n  hint: see \
                 `hearth kv put --help`\n",
            ),
            (
                "kv gett k",
                "hearth: unrecognized subcommand 'gett'\n  hint: a similar subcommand exists: 'get'\n",
            ),
            (
                "status -o xml",
                "hearth: invalid value 'xml' for '--output <FORMAT>' [possible values: table, json]\n  hint: see \
                 --help\n",
            ),
        ] {
            let error = Cli::try_parse_from(["hearth"].into_iter().chain(line.split(' '))).unwrap_err();
            assert_eq!(message(&error), expected, "{line}");
        }
    }
}
