//! The log, and how much of it: from the environment at first, and changed while the process runs.

use crate::trace;
use std::sync::OnceLock;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// The environment variables that say how much is logged, and whether as JSON.
const DIRECTIVES: &str = "TABLEMAP_LOG";
pub const JSON: &str = "TABLEMAP_LOG_JSON";

/// What of the libraries never helps; the first prints statements with their parameters, which are row data.
const QUIET: &[&str] = &[
    "tokio_postgres=warn",
    "hyper=warn",
    "tower=warn",
    "rustls=warn",
    "h2=warn",
    "tonic=warn",
    "opentelemetry=warn",
];
const USUAL: &str = "info,kube=warn";

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Begins the log, on standard error, and the traces beside it. `TABLEMAP_LOG` says how much is logged, as directives of
/// `tracing`'s `EnvFilter`.
/// Traces that cannot be sent hold nothing up. Within a runtime.
pub fn begin(json: bool, service: &'static str) {
    let wanted = std::env::var(DIRECTIVES).ok();
    let filter = wanted.and_then(|wanted| filter(&wanted).ok());
    let (layer, handle) = reload::Layer::new(filter.unwrap_or_else(|| quiet(EnvFilter::new(USUAL))));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().boxed()
    } else {
        lines.with_ansi(false).boxed()
    };
    // A layer that is not there must not be asked: spans that nobody wants are never made then.
    let mut layers = vec![lines.with_filter(layer).boxed()];
    let traces = trace::layer(service).map(|traces| layers.extend(traces.map(Layer::boxed)));
    tracing_subscriber::registry().with(layers).init();
    let _ = FILTER.set(handle);
    if let Err(error) = traces {
        tracing::warn!(error = format!("{error:#}"), "traces are not sent");
    }
}

/// What makes another process log, and send its traces, as this one was told to.
#[must_use]
pub fn environment(json: bool) -> Vec<(String, String)> {
    let directives = std::env::var(DIRECTIVES).ok();
    let directives = directives.map(|directives| (DIRECTIVES.to_owned(), directives));
    let json = json.then(|| (JSON.to_owned(), "true".to_owned()));
    directives
        .into_iter()
        .chain(json)
        .chain(trace::environment())
        .collect()
}

/// How much is logged from now on; nothing means as usual.
///
/// # Errors
/// The directives cannot be read.
pub fn change(directives: &str) -> Result<(), String> {
    let directives = directives.trim();
    let wanted = if directives.is_empty() { USUAL } else { directives };
    let filter = filter(wanted)?;
    let handle = FILTER.get().ok_or("there is no log")?;
    handle.reload(filter).map_err(|error| error.to_string())?;
    tracing::info!(directives = wanted, "the log level was changed");
    Ok(())
}

fn filter(directives: &str) -> Result<EnvFilter, String> {
    let filter = EnvFilter::try_new(directives);
    filter.map(quiet).map_err(|error| error.to_string())
}

fn quiet(filter: EnvFilter) -> EnvFilter {
    QUIET
        .iter()
        .filter_map(|quiet| quiet.parse().ok())
        .fold(filter, EnvFilter::add_directive)
}
