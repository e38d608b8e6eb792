//! The folder of a development cluster: one folder per node, and two small files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{DevOptions, node_name};

/// Says which cluster the folder holds, so that another shape is refused in one clear line and not by
/// nodes that wait for members that never come.
const SHAPE_FILE: &str = "dev-cluster";

/// The file that the shipped local program waits for.
pub(super) fn local_program_lock(data_dir: &Path) -> PathBuf {
    data_dir.join("very_important_value.lock")
}

/// Makes the folder, and the lock file in it; an error when it holds a cluster of another shape.
pub(super) fn claim(options: &DevOptions) -> anyhow::Result<()> {
    let folder = &options.data_dir;
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    claim_shape(options)?;
    let lock = local_program_lock(folder);
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&lock)
        .with_context(|| format!("cannot make the file {}", lock.display()))?;
    Ok(())
}

fn claim_shape(options: &DevOptions) -> anyhow::Result<()> {
    let file = options.data_dir.join(SHAPE_FILE);
    let wanted = format!("--nodes {} --peer-base-port {}\n", options.nodes, options.peer_base_port);
    let found = match fs::read_to_string(&file) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    if found == wanted {
        return Ok(());
    }
    // Without a node's folder nothing was started yet.
    let has_data = options.data_dir.join(node_name(0)).exists();
    if has_data && !found.trim().is_empty() {
        bail!(
            "{} holds a cluster that was made with {}: use the same, choose another --data-dir, or delete \
             the folder and its data",
            options.data_dir.display(),
            found.trim()
        );
    }
    fs::write(&file, wanted).with_context(|| format!("cannot write {}", file.display()))
}
