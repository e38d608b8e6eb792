//! Socket options of peer connections.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Sent bytes that stay unacknowledged this long break the connection. A host that vanished sends no
/// reset; without this the kernel would retry for a quarter of an hour.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a connection on which nothing is sent.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Small frames leave at once, and a dead peer is noticed.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}
