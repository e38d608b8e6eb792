//! Accepting clients, and letting them finish when the node stops.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::http::connection::{Connection, Guarded};
use crate::http::edge::{self, Edge};

/// How long accepting rests after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Headers that hyper parses without allocating for them.
const HYPER_HEADERS: usize = 100;
/// Bytes of a connection's buffers: enough that a large value needs few reads, little enough for many
/// connections.
const BUFFER_BYTES: usize = 64 * 1024;

/// Serves until `stop` turns true; then accepts nothing more and returns once every request in
/// progress is answered. The caller bounds that wait. At most `connections_max` connections are open
/// at once; further ones wait in the kernel's queue.
///
/// A connection has one request in progress: hyper takes the next one when the last one is
/// answered. What a client sends ahead waits in a bounded buffer, and then in the kernel.
pub(crate) async fn serve(
    listener: TcpListener,
    edge: Arc<Edge>,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(connections_max));
    let graceful = GracefulShutdown::new();
    let builder = http1_builder(&edge.limits);
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            // Also when the sender is gone.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a client went away at once");
            continue;
        }
        let connection = Connection::new(Arc::clone(&edge), Arc::clone(&room), connections_max);
        let stream = TokioIo::new(Guarded::new(stream, Arc::clone(&connection)));
        let service = service_fn(move |request| edge::answer(Arc::clone(&connection), request));
        let serving = graceful.watch(builder.serve_connection(stream, service));
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "client connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn http1_builder(limits: &edge::RequestLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The stream keeps the time.
    builder.header_read_timeout(None).keep_alive(true);
    builder.max_header_size(limits.head_bytes_max).max_buf_size(limits.head_bytes_max.max(BUFFER_BYTES));
    if limits.headers_max > HYPER_HEADERS {
        builder.max_headers(limits.headers_max);
    }
    builder
}
