//! /metrics, /healthz and /readyz; and /log, for those who may forward a port into the pod.

use crate::{log, metrics, readiness};
use axum::{
    Router,
    extract::ConnectInfo,
    http::{StatusCode, header},
    routing::{get, put},
};
use std::net::SocketAddr;
use tokio_util::sync::CancellationToken;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until `shutdown`.
pub async fn serve(address: SocketAddr, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route(
            "/metrics",
            get(|| async { ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics::text()) }),
        )
        .route("/log", put(change_log));
    let listener = match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%address, %error, "metrics and probes cannot be served"),
    };
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "serving metrics and probes ended");
    }
}

async fn ready() -> (StatusCode, String) {
    match readiness::check() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(lacks) => (StatusCode::SERVICE_UNAVAILABLE, lacks),
    }
}

/// From this pod alone: RBAC says who may forward a port to it.
async fn change_log(ConnectInfo(peer): ConnectInfo<SocketAddr>, directives: String) -> (StatusCode, String) {
    if !peer.ip().to_canonical().is_loopback() {
        let only = "only from the pod itself: kubectl port-forward\n";
        return (StatusCode::FORBIDDEN, only.into());
    }
    match log::change(&directives) {
        Ok(()) => (StatusCode::OK, "changed\n".into()),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
