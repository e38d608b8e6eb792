//! Are the ports free? Asked before anything is started, so that the answer names the port.

use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::bail;

use super::{DevOptions, node_name};

/// An error that names the first port that cannot be listened on.
///
/// The ports are free again when this returns: another program may still take one before a node does, and
/// then that node says so.
pub(super) fn check_free(options: &DevOptions) -> anyhow::Result<()> {
    for index in 0..options.nodes {
        let name = node_name(index);
        check(options.http_address(index), &format!("HTTP of {name}"), "--base-port")?;
        check(options.peer_address(index), &format!("peers of {name}"), "--peer-base-port")?;
    }
    Ok(())
}

fn check(address: SocketAddr, purpose: &str, flag: &str) -> anyhow::Result<()> {
    let port = address.port();
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
            "port {port} ({purpose}) is in use: stop the program that listens there, or choose other ports \
             with {flag}"
        ),
        Err(error) => {
            bail!("port {port} ({purpose}) cannot be used: {error}; choose other ports with {flag}")
        }
    }
}
