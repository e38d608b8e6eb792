//! The data directory, and which node of which cluster it belongs to.
//!
//! ```text
//! DIR/LOCK           held while a process uses the directory
//! DIR/identity.json  cluster id, node id, name; written once, when the node is founded, after log and state
//! DIR/log/           the Raft log and the vote
//! DIR/log-newest     which of its files is the newest
//! DIR/state/         checkpoints in sled, a directory a generation
//! DIR/ballast        room to start on a full disk
//! ```
//!
//! Log and state are there, empty, before the identity is: a directory with an identity and without one of
//! them has lost it, and its node must not start as if it had never voted.
//!
//! A directory that is not empty and not Hearth's is never touched, and neither is one of another
//! node or in use by another process.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::lock::{FORKED_MAX, once_free_within};
use crate::marker;
use crate::peer::hello::Own;
use crate::types::Member;

/// Who this node is. Never changes once it is written, but for the list of members that still have
/// to be founded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Drawn at random when the cluster was formed; never 0.
    pub cluster_id: u128,
    /// This node's Raft id.
    pub node_id: u64,
    /// This node's name.
    pub name: String,
    /// The members that the cluster was formed with, by id.
    pub(crate) initial_members: Vec<(u64, Member)>,
    /// On the founder: the members that have not confirmed yet.
    pub(crate) to_found: Vec<u64>,
}

/// `identity.json`. Text, so that a person can read it without a tool.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u32,
    cluster_id: String,
    node_id: u64,
    name: String,
    initial_members: Vec<MemberFile>,
    to_found: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberFile {
    id: u64,
    name: String,
    peer: String,
}

const IDENTITY_FORMAT: u32 = 1;

/// Why a data directory cannot be used. Every message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The file system refuses.
    #[error("data_dir {path}: {source}")]
    Io {
        /// The file or directory.
        path: String,
        /// What the file system says.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error(
        "data_dir {path} is in use by another process; stop it, or give this node a directory of its own"
    )]
    InUse {
        /// The directory.
        path: String,
    },
    /// It belongs to a node with another name.
    #[error("data_dir {path} belongs to node {found}, not to {configured}; check name and data_dir")]
    OtherNode {
        /// The directory.
        path: String,
        /// The name in the directory.
        found: String,
        /// The configured name.
        configured: String,
    },
    /// It was formed with other members than are configured.
    #[error(
        "data_dir {path} belongs to the cluster that was formed with {found}, but initial_cluster says {configured}; it is another cluster's directory, or initial_cluster can be left out: it only counts for an empty directory"
    )]
    OtherCluster {
        /// The directory.
        path: String,
        /// Names that the cluster was formed with.
        found: String,
        /// Names that are configured.
        configured: String,
    },
    /// There are files in it, but not Hearth's.
    #[error(
        "data_dir {path} is not empty and holds no Hearth data; it is left untouched, give an empty or new directory"
    )]
    Foreign {
        /// The directory.
        path: String,
    },
    /// There is a log or a state, but no identity.
    #[error(
        "{path}/identity.json is missing, but the log or the state beside it is not empty: the node cannot tell who it is; put the file back, or empty the directory and replace the member"
    )]
    IdentityMissing {
        /// The directory.
        path: String,
    },
    /// The identity file is damaged.
    #[error("{path}: {reason}; the node cannot tell who it is: empty the directory and replace the member")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A data directory that this process owns.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Holds the lock as long as it is open.
    _lock: File,
}

impl DataDir {
    /// Checks and locks `path` for the node `name`, creates it if need be, and reads its identity;
    /// `None` when it is new.
    pub(crate) fn open(path: &Path, name: &str) -> Result<(Self, Option<Identity>), DataDirError> {
        let io_error = |path: &Path| {
            let path = path.display().to_string();
            move |source| DataDirError::Io { path, source }
        };
        // Look before touching anything.
        let found = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error(path)(error)),
            Ok(mut entries) => {
                let identity = read_identity(path)?;
                let is_empty = entries.next().is_none();
                let locked_before = path.join(LOCK).exists();
                if identity.is_none() && !is_empty && !locked_before {
                    return Err(DataDirError::Foreign { path: path.display().to_string() });
                }
                identity
            }
        };
        if let Some(found) = found.filter(|found| found.name != name) {
            return Err(DataDirError::OtherNode {
                path: path.display().to_string(),
                found: found.name,
                configured: name.to_owned(),
            });
        }
        fs::create_dir_all(path).map_err(io_error(path))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(io_error(&lock_path))?;
        once_free_within(FORKED_MAX, || Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive)?))
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => DataDirError::InUse { path: path.display().to_string() },
                _ => io_error(&lock_path)(error),
            })?;
        let dir = Self { path: path.to_owned(), _lock: lock };
        // Again, now that nobody else writes it.
        let identity = read_identity(path)?;
        Ok((dir, identity))
    }

    /// Writes `identity`, durably and atomically.
    pub(crate) fn write_identity(&self, identity: &Identity) -> Result<(), DataDirError> {
        let path = self.path.join(IDENTITY);
        marker::write_atomically(&path, identity.to_json().as_bytes())
            .map_err(|source| DataDirError::Io { path: path.display().to_string(), source })
    }

    /// The path of the directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory below it, created if need be.
    pub(crate) fn subdirectory(&self, name: &str) -> Result<PathBuf, DataDirError> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)
            .map_err(|source| DataDirError::Io { path: path.display().to_string(), source })?;
        Ok(path)
    }
}

const LOCK: &str = "LOCK";
const IDENTITY: &str = "identity.json";

impl Identity {
    /// How this node presents itself to a peer.
    pub(crate) fn own(&self) -> Own<'_> {
        Own { cluster_id: self.cluster_id, node_id: self.node_id, name: &self.name }
    }

    /// The names that the cluster was formed with, sorted.
    pub(crate) fn initial_names(&self) -> Vec<&str> {
        self.initial_members.iter().map(|(_, member)| member.name.as_str()).collect()
    }

    fn to_json(&self) -> String {
        let file = IdentityFile {
            format: IDENTITY_FORMAT,
            cluster_id: format!("{:032x}", self.cluster_id),
            node_id: self.node_id,
            name: self.name.clone(),
            initial_members: self
                .initial_members
                .iter()
                .map(|(id, member)| MemberFile {
                    id: *id,
                    name: member.name.clone(),
                    peer: member.peer.clone(),
                })
                .collect(),
            to_found: self.to_found.clone(),
        };
        // Strings, numbers and lists always serialise.
        let mut json = serde_json::to_string_pretty(&file).unwrap_or_default();
        json.push('\n');
        json
    }

    fn from_json(json: &str) -> Result<Self, String> {
        let file: IdentityFile = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if file.format != IDENTITY_FORMAT {
            return Err(format!("format {} is not known here; a newer Hearth wrote it", file.format));
        }
        let cluster_id = u128::from_str_radix(&file.cluster_id, 16).map_err(|error| error.to_string())?;
        let member = |member: MemberFile| (member.id, Member { name: member.name, peer: member.peer });
        Ok(Self {
            cluster_id,
            node_id: file.node_id,
            name: file.name,
            initial_members: file.initial_members.into_iter().map(member).collect(),
            to_found: file.to_found,
        })
    }
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, DataDirError> {
    let path = dir.join(IDENTITY);
    let json = match fs::read_to_string(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataDirError::Io { path: path.display().to_string(), source }),
    };
    Identity::from_json(&json)
        .map(Some)
        .map_err(|reason| DataDirError::Damaged { path: path.display().to_string(), reason })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster_id: 0xabc,
            node_id: 1,
            name: "n1".into(),
            initial_members: vec![(1, Member { name: "n1".into(), peer: "h:1".into() })],
            to_found: vec![],
        }
    }

    #[test]
    fn golden_file() {
        let json = identity().to_json();
        assert_eq!(
            json.split_whitespace().collect::<String>(),
            r#"{"format":1,"cluster_id":"00000000000000000000000000000abc","node_id":1,"name":"n1","initial_members":[{"id":1,"name":"n1","peer":"h:1"}],"to_found":[]}"#
        );
        assert_eq!(Identity::from_json(&json).unwrap(), identity());
    }

    #[test]
    fn a_directory_is_used_by_its_node_alone() {
        let parent = TempDir::new().unwrap();
        let path = parent.path().join("data");
        let (dir, found) = DataDir::open(&path, "n1").unwrap();
        assert_eq!(found, None);
        let in_use = DataDir::open(&path, "n1").unwrap_err().to_string();
        assert!(in_use.contains("in use by another process"), "{in_use}");
        dir.write_identity(&identity()).unwrap();
        drop(dir);
        assert_eq!(DataDir::open(&path, "n1").unwrap().1, Some(identity()));
        let other = DataDir::open(&path, "n2").unwrap_err().to_string();
        assert!(other.contains("belongs to node n1, not to n2"), "{other}");
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let error = DataDir::open(dir.path(), "n1").unwrap_err().to_string();
        assert!(error.contains("holds no Hearth data"), "{error}");
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["notes.txt"]);

        let error = DataDir::open(&dir.path().join("notes.txt"), "n1").unwrap_err().to_string();
        assert!(error.contains("notes.txt: Not a directory"), "{error}");
    }

    #[test]
    fn a_damaged_identity_is_not_replaced() {
        let cases = ["", "{}", "{\"format\":2}", "null"];
        for content in cases {
            let dir = TempDir::new().unwrap();
            fs::write(dir.path().join(IDENTITY), content).unwrap();
            let error = DataDir::open(dir.path(), "n1").unwrap_err().to_string();
            assert!(error.contains("cannot tell who it is"), "{error}");
            assert_eq!(fs::read_to_string(dir.path().join(IDENTITY)).unwrap(), content);
        }
    }
}
