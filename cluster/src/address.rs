//! Listen addresses that nobody else on the machine takes, also while their node is down.
//!
//! A port that was merely free a moment ago on 127.0.0.1 can be taken, while its node is killed, by
//! any outgoing connection or by another test process. So each test process has a loopback address
//! of its own, made from its process id; outgoing connections leave from 127.0.0.1.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// Ports that this process has given out: a released port may be offered by the kernel again.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// This process's own loopback address: 127.x.y.z, where x.y.z is the process id (22 bits on Linux)
/// with the highest bit set, so that it is never 127.0.0.1.
#[must_use]
pub fn own_loopback() -> IpAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, high | 0x80, middle, low))
}

/// A TCP address on [`own_loopback`] that is free now and that this process never gives out again.
///
/// # Errors
/// When no port can be bound there.
pub fn free_address() -> Result<SocketAddr> {
    let ip = own_loopback();
    loop {
        let listener = TcpListener::bind((ip, 0)).with_context(|| format!("bind a free port on {ip}"))?;
        let address = listener.local_addr().context("read the bound address")?;
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.get_or_insert_default().insert(address.port()) {
            return Ok(address);
        }
    }
}
