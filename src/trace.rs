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
use std::{sync::OnceLock, time::Duration};
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
const INSECURE: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    "OTEL_EXPORTER_OTLP_INSECURE",
];

/// What holds for each process. Not what names one, is a file of one, or may be a secret.
const SHARED: &[&str] = &[
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
];
/// What was not sent yet when the process ends is given up after this.
const LAST: Duration = Duration::from_secs(2);

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
    // Without a scheme it is TLS too, unless the environment says otherwise.
    let is_plain = first(INSECURE).is_some_and(|(_, said)| said.eq_ignore_ascii_case("true"));
    if endpoint.starts_with("https:") || !endpoint.contains("://") && !is_plain {
        exporter = exporter.with_tls_config(tls()?);
    }
    let exporter = exporter.build().with_context(|| name.to_owned())?;
    let mut resource = Resource::builder();
    let attributes = first(["OTEL_RESOURCE_ATTRIBUTES"]).map_or_else(String::new, |(_, said)| said);
    if first(["OTEL_SERVICE_NAME"]).is_none() && !attributes.contains("service.name=") {
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

/// What makes another process send its traces to where this one does.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let said = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
    SHARED.iter().filter_map(said).collect()
}

/// Sends what was not sent yet.
pub fn end() {
    let ended = PROVIDER
        .get()
        .map(|provider| provider.shutdown_with_timeout(LAST));
    if let Some(Err(error)) = ended {
        tracing::warn!(%error, "the last traces were not sent");
    }
}

/// Does work within a span, which tells whether it failed; why, the log says.
///
/// # Errors
/// Those of the work.
pub fn within<'a, T, E>(
    span: Span,
    work: impl Future<Output = Result<T, E>> + Send + 'a,
) -> impl Future<Output = Result<T, E>> + Send + 'a
where
    T: Send + 'a,
    E: Send + 'a,
{
    // The work of a batch is large, and whoever waits for it would hold it several times.
    let work = Box::pin(work.instrument(span.clone()));
    async move {
        let done = work.await;
        if done.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        done
    }
}
