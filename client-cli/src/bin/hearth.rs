//! `hearth`: the command line for a Hearth cluster.

use std::process::ExitCode;

use hearth_cli::commands::{self, failure, output::Output, usage};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match usage::parsed() {
        Ok(cli) => cli,
        Err(exit_code) => return exit_code,
    };
    let mut output = Output::to_stdout(cli.output);
    let result = commands::run(cli, &mut output).await.and_then(|()| output.finish());
    failure::exit_code(result)
}
