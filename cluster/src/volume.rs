//! Small file systems of their own: for filling them to the last byte, and for disks that hang.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A file system, mounted while this lives. Mounting needs root.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
}

impl Volume {
    /// Mounts `bytes` of room in memory at `path`, which is created.
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

    /// Mounts an ext4 of `bytes` in a file beside `path`, which is created, over a loop device. Unlike one
    /// in memory it can be frozen.
    ///
    /// # Errors
    /// When the file system cannot be made or mounted, with what the tools say.
    pub fn mount_disk(path: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(path)?;
        let image = path.with_extension("ext4");
        File::create(&image)?.set_len(bytes)?;
        run("mkfs.ext4", [OsStr::new("-q"), "-F".as_ref(), image.as_ref()])?;
        run("mount", [OsStr::new("-o"), "loop".as_ref(), image.as_ref(), path.as_ref()])
            .context("a file system in a file could not be mounted; that needs root and loop devices")?;
        Ok(Self { path: path.to_owned() })
    }

    /// Freezes the file system: from then on every write to it, and every fsync, hangs, until the guard is
    /// dropped or `bound` has passed, whatever becomes of this process. Returns at once; freezing takes a
    /// moment.
    ///
    /// # Errors
    /// When the shell that does it cannot be started.
    pub fn freeze(&self, bound: Duration) -> Result<Frozen> {
        let script = "mountpoint -q \"$0\" && fsfreeze -f \"$0\" && sleep \"$1\"; fsfreeze -u \"$0\"";
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", script]).arg(&self.path).arg(bound.as_secs().to_string());
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("setsid sh")?;
        Ok(Frozen { path: self.path.clone(), child })
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

/// A file system that is frozen.
#[derive(Debug)]
pub struct Frozen {
    path: PathBuf,
    child: Child,
}

impl Frozen {
    /// Whether the bound has passed, so that the file system is not frozen any more.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn is_over(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("ask for the freezing shell")?.is_some())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The shell lives on: should it not have frozen yet, it will also thaw.
        if let Err(error) = run("fsfreeze", [OsStr::new("-u"), self.path.as_ref()]) {
            eprintln!("{}: {error:#}", self.path.display());
        }
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
