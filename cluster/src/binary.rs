//! The server under test: built once per process, with the profile that this program was built with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};

static HEARTHD: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// Has [`hearthd`] answer `program` instead of building one. To be called before any node is started.
///
/// # Errors
/// When there is no such file, or when another server was chosen already.
pub fn use_hearthd(program: &Path) -> Result<()> {
    let program = program.canonicalize().with_context(|| format!("no server {}", program.display()))?;
    let chosen = HEARTHD.get_or_init(|| Ok(program.clone()));
    ensure!(chosen.as_ref() == Ok(&program), "another server was chosen before: {chosen:?}");
    Ok(())
}

/// Path of a `hearthd` that matches the sources: cargo is asked to build it, which costs a fraction
/// of a second when nothing changed. Every later call answers from memory.
///
/// # Errors
/// When this program does not run from a cargo target directory, or when the build fails; the
/// compiler's messages go to stderr.
pub fn hearthd() -> Result<&'static Path> {
    let built = HEARTHD.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.as_deref().map_err(|message| anyhow!("build hearthd: {message}"))
}

fn build() -> Result<PathBuf> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate has a parent directory")?;
    let program = std::env::current_exe().context("locate this program")?;
    let output =
        profile_directory(&program).with_context(|| format!("{} is not cargo's", program.display()))?;
    let target = output.parent().context("the profile's directory has a parent")?;
    let profile = match output.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => bail!("{} has no profile name", output.display()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--profile", profile])
        // Naming this crate too gives the dependencies the features that they have in a build of the
        // whole workspace: what `cargo test --workspace` compiled is used, not compiled once more.
        .args([
            "-p",
            "hearth-node",
            "-p",
            "hearth-cluster",
            "--bin",
            "hearthd",
            "--bin",
            "very_important_value",
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace)
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "cargo build ended with {status}");
    let binary = output.join("hearthd");
    ensure!(binary.is_file(), "{} was not built", binary.display());
    Ok(binary)
}

/// The directory that holds a profile's programs: tests and examples lie one level deeper.
fn profile_directory(program: &Path) -> Option<&Path> {
    let directory = program.parent()?;
    match directory.file_name()?.to_str()? {
        "deps" | "examples" => directory.parent(),
        _ => Some(directory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_directory_of_tests_and_programs() {
        for program in ["/t/debug/deps/durability-1f", "/t/debug/idle", "/t/debug/examples/x"] {
            assert_eq!(profile_directory(Path::new(program)), Some(Path::new("/t/debug")), "{program}");
        }
    }
}
