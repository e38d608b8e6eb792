//! `hearthd`: one node of a Hearth cluster, or a whole cluster for trying things out.

use std::process::ExitCode;

use hearth_node::compute::very_important_value;
use hearth_node::config::{self, Cli, Command, ConfigError};
use hearth_node::{dev, node};

/// Places that glibc keeps freed memory in. By default there are eight for each processor, and what one
/// thread frees the others do not get: with a million keys that took half as much again as the data.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 1;

fn main() -> ExitCode {
    #[cfg(target_env = "gnu")]
    limit_arenas();
    let cli = match config::load(std::env::args_os()) {
        Ok(cli) => cli,
        Err(ConfigError::Asked(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(ConfigError::Usage(reason)) => {
            eprintln!("hearthd: {reason}");
            return ExitCode::from(2);
        }
    };
    if let Some(Command::VeryImportantValue { lock }) = cli.command {
        return ExitCode::from(very_important_value::run(lock.into_iter()));
    }
    if cli.print_config {
        print!("{}", config::print(&cli));
        return ExitCode::SUCCESS;
    }
    if cli.check_config {
        println!("the configuration is valid");
        return ExitCode::SUCCESS;
    }
    run(cli).unwrap_or_else(|error| {
        eprintln!("hearthd: {}", one_line(&error));
        ExitCode::FAILURE
    })
}

/// Has all threads share their freed memory, unless the environment says otherwise in glibc's own way. To
/// be called before there are any.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "glibc's allocator is set up by a C function")]
fn limit_arenas() {
    if std::env::var_os("MALLOC_ARENA_MAX").is_some() {
        return;
    }
    // SAFETY: it takes two numbers and changes nothing but a setting; there is one thread.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) } == 0 {
        eprintln!("hearthd: glibc did not take M_ARENA_MAX; memory use may be higher");
    }
}

/// The error and its causes; many texts already end with that of their cause.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.ends_with(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line
}

#[tokio::main]
async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Some(Command::Dev(options)) => dev::run(options).await,
        _ => node::run(cli.settings).await,
    }
}
