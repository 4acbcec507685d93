//! `GET /metrics` on a loopback address.
//!
//! Invariant: whoever asks, however slowly, takes a bounded part of the daemon: a few connections at a time, each
//! for one request and a bounded time. Who has connected and does not ask makes room for who comes: the oldest goes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::Format;
use super::publish::Source;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 32;
/// How long a client may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may take in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// What a request may hold: a scraper's has a few hundred bytes.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// After an error that concerns the whole process, such as no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("metrics.listen = \"{address}\" cannot be listened on: {source}; choose a free port")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// A bound address that nobody is served on yet.
#[derive(Debug)]
pub(super) struct Listener(std::net::TcpListener);

impl Listener {
    pub(super) fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let bind = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(Self(listener))
        };
        bind().map_err(|source| ListenError { address, source })
    }

    /// Answers whoever comes, until it is dropped.
    pub(super) async fn serve(self, source: Source) {
        let address = self.0.local_addr();
        let listener = match TcpListener::from_std(self.0) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the metrics are not served");
                return;
            }
        };
        if let Ok(address) = address {
            tracing::info!("metrics are at http://{address}/metrics");
        }
        // Dropped with this future, and the connections with it.
        let mut connections = Connections::default();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    connections.make_room().await;
                    connections.serve(stream, source.clone());
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The connections, the oldest first.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: Vec<Open>,
}

struct Open {
    task: AbortHandle,
    /// Whether its request has arrived.
    has_asked: Arc<AtomicBool>,
}

impl Connections {
    /// Leaves room for one more.
    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.open.retain(|one| !one.task.is_finished());
            if self.open.len() < MAX_CONNECTIONS {
                return;
            }
            match self.open.iter().position(|one| !one.has_asked.load(Ordering::Relaxed)) {
                Some(oldest) => self.open.remove(oldest).task.abort(),
                None => drop(self.tasks.join_next().await),
            }
        }
    }

    fn serve(&mut self, stream: TcpStream, source: Source) {
        let has_asked = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&has_asked);
        let task = self.tasks.spawn(async move {
            // A scraper that is gone has asked for nothing any more.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serve_one(stream, source, &asked)).await;
        });
        self.open.push(Open { task, has_asked });
    }
}

async fn serve_one(stream: TcpStream, source: Source, has_asked: &AtomicBool) {
    let service = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        answer(request, source.clone())
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_REQUEST_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for metrics broke");
    }
}

async fn answer(request: Request<Incoming>, source: Source) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "there is only /metrics\n"));
    }
    if request.method() != Method::GET {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return Ok(refused);
    }
    Ok(match source.render(Format::OpenMetrics).await {
        Ok(text) => response(StatusCode::OK, OPEN_METRICS, text.into()),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be read");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be read\n")
        }
    })
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, PLAIN, Bytes::from_static(text.as_bytes()))
}

fn response(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
