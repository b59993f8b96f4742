//! The names of a map's keys.

/// One hash tag, so that all keys of a map lie in one cluster slot; it begins with the namespace, so that an ACL
/// user can be held to `~{tm:<namespace>:*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    pub epoch: String,
    pub meta: String,
    pub stream: String,
    pub errors: String,
    /// The filter of each entry of the stream, under the same id.
    pub filters: String,
    /// Parked records that lie together.
    pub packs: String,
}

impl Keys {
    #[must_use]
    pub fn new(namespace: &str, queue_id: &str) -> Self {
        let key = |name: &str| format!("{{tm:{namespace}:{queue_id}}}:{name}");
        Self {
            epoch: key("epoch"),
            meta: key("meta"),
            stream: key("stream"),
            errors: key("errors"),
            filters: key("filters"),
            packs: key("packs"),
        }
    }
}
