//! Serves the API over TLS.

use super::{
    access,
    answer::{Answer, answer},
    caller::Caller,
    certificate::{Certificate, Source, server_config},
    discovery,
    fault::Fault,
    front::{self, Front},
    openapi,
    request::Request,
    store::Store,
};
use crate::readiness;
use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use rustls::pki_types::CertificateDer;
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// So many connections at once; the API server needs a few.
const CONNECTIONS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(120);
/// So many requests read records at once: each holds some of them in memory.
const READS: usize = 16;
/// Of one request, its look at Redis and the destination included.
const REQUEST: Duration = Duration::from_secs(30);

/// Where and how it is served.
#[derive(Clone, Debug)]
pub struct Options {
    pub address: SocketAddr,
    pub certificate: Source,
    /// None is all.
    pub namespaces: Vec<String>,
    pub default_queue: Option<String>,
}

/// What is not ready without it.
const PART: &str = "records API";

/// What the requests share.
struct Shared {
    client: Client,
    store: Store,
    front: watch::Receiver<Option<Arc<Front>>>,
    reads: Semaphore,
}

/// Serves until `shutdown`.
///
/// # Errors
/// The address or the certificate cannot be used.
pub async fn serve(client: Client, options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    readiness::lacks(PART, "it has no certificate yet");
    let certificate = Arc::new(Certificate::read(options.certificate).await?);
    let acceptor = TlsAcceptor::from(Arc::new(server_config(Arc::clone(&certificate))?));
    let listener = TcpListener::bind(options.address)
        .await
        .with_context(|| format!("the records API cannot be served at {}", options.address))?;
    let (front, seen) = watch::channel(None);
    let shared = Arc::new(Shared {
        store: Store::new(client.clone(), options.namespaces, options.default_queue),
        client: client.clone(),
        front: seen,
        reads: Semaphore::new(READS),
    });
    tracing::info!(address = %options.address, "the records API is served");
    readiness::has(PART);
    let accept = accept(&listener, acceptor, shared, &shutdown);
    tokio::join!(
        front::follow(client, front, shutdown.clone()),
        certificate.follow(shutdown.clone()),
        accept
    );
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    shutdown: &CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    while let Some(Ok(permit)) = shutdown
        .run_until_cancelled(Arc::clone(&room).acquire_owned())
        .await
    {
        match shutdown.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, _))) => {
                let connection = converse(stream, acceptor.clone(), Arc::clone(&shared), shutdown.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            // Too many files are open, most likely.
            Some(Err(error)) => {
                tracing::warn!(%error, "a connection to the records API could not be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    connections.close();
    let _ = tokio::time::timeout(HANDSHAKE, connections.wait()).await;
}

/// One connection to its end. What goes wrong on it the client sees.
async fn converse(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        return;
    };
    let certificates: Vec<CertificateDer<'static>> = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(|shown| shown.iter().cloned().map(CertificateDer::into_owned).collect())
        .unwrap_or_default();
    // Who is not the front proxy gets one answer, and soon: he must not take its room.
    let front = shared.front.borrow().clone();
    let is_known = front.is_some_and(|front| front.check(&certificates).is_ok());
    let idle = if is_known { IDLE } else { HANDSHAKE };
    let certificates = Arc::new(certificates);
    let service = service_fn(move |request| {
        let (shared, certificates) = (Arc::clone(&shared), Arc::clone(&certificates));
        async move { Ok::<_, Infallible>(respond(&shared, &certificates, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .keep_alive(is_known)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn respond(
    shared: &Shared,
    certificates: &[CertificateDer<'_>],
    request: &http::Request<Incoming>,
) -> Response<Full<Bytes>> {
    let work = handle(shared, certificates, request);
    let late = |_| {
        Err(Fault::Unavailable(
            "the records could not be read in time: try again".into(),
        ))
    };
    match tokio::time::timeout(REQUEST, work).await.unwrap_or_else(late) {
        Ok(Answer { value, warnings }) => response(StatusCode::OK, &value, &warnings),
        Err(fault) => response(fault.code(), &fault.status(), &[]),
    }
}

async fn handle(
    shared: &Shared,
    certificates: &[CertificateDer<'_>],
    request: &http::Request<Incoming>,
) -> Result<Answer, Fault> {
    let front = shared.front.borrow().clone();
    let caller = Caller::of(front.as_deref(), certificates, request.headers())?;
    if request.method() != Method::GET {
        return Err(Fault::MethodNotAllowed);
    }
    let query = request.uri().query().unwrap_or_default();
    let asked = Request::parse(request.uri().path(), query, accepted(request.headers()))?;
    Ok(Answer::of(match asked {
        Request::Groups => discovery::groups(),
        Request::Group => discovery::group(),
        Request::Resources => discovery::resources(),
        Request::Schemas => openapi::index(),
        Request::Schema => openapi::document(),
        Request::Records(records) => {
            access::check(&shared.client, &caller, &records).await?;
            let _turn = shared.reads.acquire().await;
            return answer(&shared.store, &records).await;
        }
    }))
}

fn accepted(headers: &HeaderMap) -> &str {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.unwrap_or_default()
}

fn response(code: StatusCode, value: &serde_json::Value, warnings: &[String]) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for warning in warnings {
        // RFC 7234, section 5.5: 299 is a warning that stays.
        let text = warning.replace(['"', '\\', '\n'], "'");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            headers.append(header::WARNING, value);
        }
    }
    response
}
