//! Configuration: flags over environment over file over defaults, all from one list of keys.
//!
//! [`Settings`] is that list: a field is a key. As a flag it is `--raft-heartbeat-interval`, in the
//! environment `HEARTH_RAFT_HEARTBEAT_INTERVAL`, in the file `heartbeat_interval` under `[raft]`, or
//! `raft_heartbeat_interval` at the top. What the file sets and neither flag nor environment does
//! is handed to the same parser as if it had been a flag, so that there is one set of names, one
//! validation and one text for each key. A key that is not in the list is an error.

mod file;
mod print;
mod settings;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::settings::{InitialCluster, Settings, Variable};
use crate::dev::DevOptions;

/// One node of a Hearth cluster: a replicated key-value store and compute endpoints over HTTP.
///
/// Without arguments it is a cluster of one, with its data in ./hearth-data and HTTP on
/// 127.0.0.1:8080.
#[derive(Debug, Parser)]
#[command(name = "hearthd", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to run instead of a node
    #[command(subcommand)]
    pub command: Option<Command>,

    /// TOML file with the keys below; see --print-config for its form
    #[arg(long, value_name = "FILE", env = "HEARTH_CONFIG")]
    pub config: Option<PathBuf>,

    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long)]
    pub check_config: bool,

    /// Print the effective configuration as a file, and exit
    #[arg(long)]
    pub print_config: bool,

    /// The keys
    #[command(flatten)]
    pub settings: Settings,
}

/// What `hearthd` can be besides a node.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a cluster of several nodes on this machine, for trying things out
    Dev(DevOptions),
    /// Be the program that /local_program runs by default
    #[command(hide = true)]
    VeryImportantValue {
        /// File to wait for
        lock: Option<OsString>,
    },
}

/// Why there is no configuration. The text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag, a variable, a key or a value is wrong: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Help or version was asked for: the text to print, exit code 0.
    #[error("{0}")]
    Asked(String),
}

/// Reads the command line, the environment and the file.
///
/// # Errors
/// [`ConfigError`], naming the key and, for a value of the file, the file.
pub fn load(args: impl IntoIterator<Item = OsString>) -> Result<Cli, ConfigError> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let matches = Cli::command().try_get_matches_from(&args).map_err(|error| usage(&error))?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| usage(&error))?;
    if cli.command.is_some() {
        return Ok(cli);
    }
    let Some(path) = &cli.config else { return checked(cli) };

    let in_file = |reason: String| ConfigError::Usage(format!("{}: {reason}", path.display()));
    let keys = settings_command();
    let mut from_file = Vec::new();
    for (key, values) in file::read(path).map_err(in_file)? {
        let Some(arg) = keys.get_arguments().find(|arg| arg.get_id() == key.as_str()) else {
            return Err(in_file(format!("unknown key {key}{}", file::suggestion(&key, &keys))));
        };
        let given = matches.value_source(&key);
        if matches!(given, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        let flag = format!("--{}", arg.get_long().unwrap_or(&key));
        match arg.get_action() {
            ArgAction::SetTrue => match values.as_slice() {
                [value] if value == "true" => from_file.push(flag.into()),
                [value] if value == "false" => {}
                _ => return Err(in_file(format!("{key}: must be true or false"))),
            },
            _ => from_file.extend(values.iter().map(|value| OsString::from(format!("{flag}={value}")))),
        }
    }
    args.splice(1..1, from_file);
    let cli = Cli::try_parse_from(&args).map_err(|error| match usage(&error) {
        // Flags and environment were fine before: the file is not.
        ConfigError::Usage(reason) => in_file(reason),
        asked => asked,
    })?;
    checked(cli)
}

fn checked(cli: Cli) -> Result<Cli, ConfigError> {
    cli.settings.check().map_err(ConfigError::Usage)?;
    Ok(cli)
}

/// The effective configuration in the form of the file.
pub fn print(cli: &Cli) -> String {
    print::to_toml(&settings_command(), &cli.settings)
}

/// The keys alone, without the flags that are not keys.
fn settings_command() -> clap::Command {
    <Settings as clap::Args>::augment_args(clap::Command::new("keys"))
}

/// clap's message on one line.
fn usage(error: &clap::Error) -> ConfigError {
    use clap::error::ErrorKind;

    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return ConfigError::Asked(text);
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("wrong arguments");
    let mut line = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    for more in lines.take_while(|line| !line.starts_with("Usage:")) {
        if let Some(tip) = more.strip_prefix("tip: ") {
            line.push_str("; ");
            line.push_str(tip);
        } else if !more.starts_with("For more information") {
            line.push(' ');
            line.push_str(more);
        }
    }
    ConfigError::Usage(line)
}

#[cfg(test)]
mod tests;
