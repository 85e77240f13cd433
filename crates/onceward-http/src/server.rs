//! The bounds of a connection: how many, how long its heads may take, how long it may not read.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::guard::note;
use crate::limits::size;
use crate::{Limits, Problem};

/// Connections over the limit that are told so at the same time; more are just closed.
const TOLD_CONNECTIONS: usize = 32;
/// How long one of those may take to say anything.
const TOLD_TIMEOUT: Duration = Duration::from_secs(1);
/// Wait after an `accept` that failed for want of something (open files, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves HTTP/1.1 on `listener` until `stop`; then it takes no more connections, finishes the
/// requests under way and returns. Dropping it closes every connection at once.
///
/// `router` gets the client's address as [`ConnectInfo`]. Put a [`crate::Guard`] before it: here
/// only connections are bounded.
///
/// # Errors
/// None so far: trouble with one connection ends that one, trouble with `accept` is waited out.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    stop: CancellationToken,
) -> io::Result<()> {
    let server = Server {
        places: Arc::new(Semaphore::new(size(limits.max_connections))),
        told: Arc::new(Semaphore::new(TOLD_CONNECTIONS)),
        limits: limits.clone(),
        busy: Router::new().fallback(async || {
            Problem::try_again("too many connections at the same time; nothing was done")
        }),
        router,
        stop: stop.clone(),
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => server.admit(stream, peer, &mut connections),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// The client has gone before it was looked at.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

struct Server {
    limits: Limits,
    router: Router,
    /// Answers those for whom there is no place.
    busy: Router,
    places: Arc<Semaphore>,
    told: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Server {
    fn admit(&self, stream: TcpStream, peer: SocketAddr, connections: &mut JoinSet<()>) {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            let times = Times {
                header: self.limits.header_timeout(),
                send: self.limits.send_timeout(),
                keep_alive: true,
            };
            connections.spawn(self.talk(stream, peer, self.router.clone(), times, place));
            return;
        }
        note("connections");
        if let Ok(place) = Arc::clone(&self.told).try_acquire_owned() {
            let times = Times {
                header: TOLD_TIMEOUT,
                send: TOLD_TIMEOUT,
                keep_alive: false,
            };
            connections.spawn(self.talk(stream, peer, self.busy.clone(), times, place));
        }
    }

    /// One connection from its first byte to its end.
    fn talk(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        router: Router,
        times: Times,
        place: OwnedSemaphorePermit,
    ) -> BoxFuture<'static, ()> {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(times.header)
            .keep_alive(times.keep_alive)
            // The guard answers what is a little too large by a problem document; what is far too
            // large never gets into memory.
            .max_buf_size(head_buffer(&self.limits));
        let stop = self.stop.clone();
        Box::pin(async move {
            let _place = place;
            // Answers are small and whole: waiting to fill a packet only delays them.
            let _best_effort = stream.set_nodelay(true);
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(times.send));
            let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(peer));
                router.clone().call(request)
            });
            let mut connection =
                pin!(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        })
    }
}

/// How long a connection may wait for its client.
struct Times {
    header: Duration,
    send: Duration,
    keep_alive: bool,
}

/// Bytes of a head that are read at most; hyper needs 8 KiB at least.
fn head_buffer(limits: &Limits) -> usize {
    size(limits.max_uri_bytes + limits.max_header_bytes + 8 * 1024)
}
