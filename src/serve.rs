//! /metrics, /healthz and /readyz.

use crate::metrics;
use axum::{Router, http::header, routing::get};
use std::net::SocketAddr;
use tokio_util::sync::CancellationToken;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until `shutdown`.
pub async fn serve(address: SocketAddr, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(|| async { "ready\n" }))
        .route(
            "/metrics",
            get(|| async { ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics::text()) }),
        );
    let listener = match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%address, %error, "metrics and probes cannot be served"),
    };
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "serving metrics and probes ended");
    }
}
