//! The records API: an aggregated Kubernetes API of queued records and catch-up errors, which it reads from Redis. Get and
//! list only; lists carry no row data but the key, which stands behind RBAC.
//!
//! A request passes `server` (TLS), `caller` (who asks, as the front proxy says), `request` (what for), `access` (whether he
//! may), `answer`, and `queued`, `errors` or `payload`.

mod access;
mod answer;
mod authority;
mod caller;
mod certificate;
mod discovery;
mod errors;
mod fault;
mod front;
mod object;
mod openapi;
mod page;
mod payload;
mod queued;
mod request;
mod resource;
mod selector;
mod server;
mod store;
mod table;

pub use authority::{Authority, SelfMade};
pub use certificate::Source;
pub use server::{Options, serve};

/// Whether a request can be read: path, query, and what it accepts.
#[cfg(feature = "testing")]
#[must_use]
pub fn read_request(path: &str, query: &str, accept: &str) -> bool {
    request::Request::parse(path, query, accept).is_ok()
}

/// The API group.
pub const GROUP: &str = "records.tablemap.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
