//! Traces by OTLP, if a collector is named: of batches and calls, never of single records, and without row data.
//!
//! The environment is that of the OpenTelemetry specification (SDK environment variables, OTLP exporter): endpoint,
//! headers, timeout, service name, resource attributes and sampler.

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    SpanExporter, WithTonicConfig,
    tonic_types::transport::{Certificate, ClientTlsConfig},
};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use std::{fmt::Display, sync::OnceLock};
use tracing::{Instrument, Span, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

/// The target of our spans; those of the operator's controllers are kube's. The log leaves them out: their level is below
/// what a log shows.
pub const TARGET: &str = "tablemap_span";

/// What the specification calls them.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const CERTIFICATES: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
];
const PREFIX: &str = "OTEL_";

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// A span, which costs next to nothing while nobody collects it.
macro_rules! span {
    ($name:literal $(, $($fields:tt)*)?) => {
        tracing::trace_span!(target: $crate::trace::TARGET, $name, otel.status_code = tracing::field::Empty $(, $($fields)*)?)
    };
}
pub(crate) use span;

/// Sends spans to the collector that the environment names; None: it names none. Within a runtime, on which it works.
///
/// # Errors
/// The collector's address or the certificates cannot be used.
pub fn layer<S>(service: &'static str) -> anyhow::Result<Option<impl Layer<S>>>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let Some((name, endpoint)) = first(ENDPOINTS) else {
        return Ok(None);
    };
    let mut exporter = SpanExporter::builder().with_tonic();
    if endpoint.starts_with("https:") {
        exporter = exporter.with_tls_config(tls()?);
    }
    let exporter = exporter.build().with_context(|| name.to_owned())?;
    let mut resource = Resource::builder();
    if first(["OTEL_SERVICE_NAME"]).is_none() {
        resource = resource.with_service_name(service);
    }
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_batch_exporter(exporter)
        .build();
    let tracer = provider.tracer("tablemap");
    let _ = PROVIDER.set(provider);
    let spans = Targets::new()
        .with_target(TARGET, LevelFilter::TRACE)
        .with_target("kube_runtime::controller", LevelFilter::INFO);
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false);
    Ok(Some(layer.with_filter(spans)))
}

/// Whom to trust: who the system trusts, or the authorities of a file.
fn tls() -> anyhow::Result<ClientTlsConfig> {
    let config = ClientTlsConfig::new();
    let Some((name, file)) = first(CERTIFICATES) else {
        return Ok(config.with_enabled_roots());
    };
    let pem = std::fs::read(&file).with_context(|| format!("{name}: {file} cannot be read"))?;
    Ok(config.ca_certificate(Certificate::from_pem(pem)))
}

/// The first of these environment variables that says something.
fn first<const N: usize>(names: [&'static str; N]) -> Option<(&'static str, String)> {
    let said = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    names.into_iter().find_map(|name| Some((name, said(name)?)))
}

/// What makes another process send its traces as this one was told to; it names itself.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let all = std::env::vars().filter(|(name, _)| name.starts_with(PREFIX) && name != "OTEL_SERVICE_NAME");
    let mut all: Vec<_> = all.collect();
    all.sort();
    all
}

/// Sends what was not sent yet.
pub fn end() {
    if let Some(Err(error)) = PROVIDER.get().map(SdkTracerProvider::shutdown) {
        tracing::warn!(%error, "the last traces were not sent");
    }
}

/// Does work within a span, which tells whether it failed; why, the log says.
///
/// # Errors
/// Those of the work.
pub async fn within<T, E: Display>(span: Span, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let done = work.instrument(span.clone()).await;
    if done.is_err() {
        span.record("otel.status_code", "ERROR");
    }
    done
}
