//! Small file systems of their own, for filling them to the last byte.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A file system in memory, mounted while this lives. Mounting needs root.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
}

impl Volume {
    /// Mounts `bytes` of room at `path`, which is created.
    ///
    /// # Errors
    /// When `mount` fails, with what it says.
    pub fn mount(path: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(path)?;
        let size = format!("size={bytes}");
        run(
            "mount",
            [
                OsStr::new("-t"),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                size.as_ref(),
                "hearth".as_ref(),
                path.as_ref(),
            ],
        )
        .context("a small file system could not be mounted; that needs root")?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes free on it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Takes room with a file until about `leave` bytes are free; 0 takes all there is.
    ///
    /// # Errors
    /// What the file system says, other than being full.
    pub fn fill(&self, leave: u64) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.filler())?;
        let block = [7; 64 * 1024];
        loop {
            let free = self.free_bytes()?;
            if free <= leave {
                return Ok(());
            }
            let bytes = usize::try_from(free - leave).unwrap_or(usize::MAX).min(block.len());
            match file.write(&block[..bytes]) {
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                other => drop(other?),
            }
        }
    }

    /// Gives back what [`Volume::fill`] took.
    ///
    /// # Errors
    /// What the file system says.
    pub fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a process may still be ending.
        if let Err(error) = run("umount", [OsStr::new("-l"), self.path.as_ref()]) {
            eprintln!("{}: {error:#}", self.path.display());
        }
    }
}

fn run<const N: usize>(program: &str, arguments: [&OsStr; N]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
