//! `hearth`: the command line for a Hearth cluster.

use std::process::ExitCode;

use clap::Parser;
use hearth_cli::commands::{self, Cli, failure, output::Output};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut output = Output::to_stdout(cli.output);
    let result = commands::run(cli, &mut output).await.and_then(|()| output.finish());
    failure::exit_code(result)
}
