//! `hearthd`: one node of a Hearth cluster, or a whole cluster for trying things out.

use std::process::ExitCode;

use hearth_node::compute::very_important_value;
use hearth_node::config::{self, Cli, Command, ConfigError};
use hearth_node::{dev, node, runtime};

fn main() -> ExitCode {
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

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    runtime::new()?.block_on(async {
        match cli.command {
            Some(Command::Dev(options)) => dev::run(options).await,
            _ => node::run(cli.settings).await,
        }
    })
}
