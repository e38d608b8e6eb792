//! How the service before Hearth ran its program: one Python thread and `os.system`, a shell each time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const SCRIPT: &str = "
import os, sys, time
begun, runs = time.time(), 0
while time.time() - begun < float(sys.argv[1]):
    os.system(sys.argv[2])
    runs += 1
print(runs / (time.time() - begun))
";

/// Programs a second.
///
/// # Errors
/// When there is no python3, or it fails.
pub async fn rate(program: &Path, lock: &Path, window: Duration) -> Result<f64> {
    let output = tokio::process::Command::new("python3")
        .args(["-c", SCRIPT, &window.as_secs_f64().to_string()])
        .arg(format!("{} {}", program.display(), lock.display()))
        .output()
        .await
        .context("run python3")?;
    ensure!(output.status.success(), "python3 ended with {}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().parse().context("a number from python3")
}
