//! Whether a Redis keeps what it has said.

use super::Link;
use crate::queue::QueueError;

impl Link {
    /// How durable this Redis is.
    ///
    /// # Errors
    /// As [`Link::query`].
    pub async fn durability(&self) -> Result<Durability, QueueError> {
        let mut ask = redis::pipe();
        for name in [
            "appendonly",
            "appendfsync",
            "no-appendfsync-on-rewrite",
            "maxmemory-policy",
        ] {
            ask.cmd("CONFIG").arg("GET").arg(name);
        }
        let answers: Result<Vec<Vec<String>>, QueueError> = self.pipe(&ask).await;
        match answers {
            Ok(answers) => {
                let value = |index: usize| answers.get(index).and_then(|pair| pair.get(1)).cloned();
                Ok(Durability {
                    asked: true,
                    append: value(0),
                    fsync: value(1),
                    no_fsync: value(2),
                    policy: value(3),
                })
            }
            Err(QueueError::Refused(_)) => Ok(Durability::default()),
            Err(error) => Err(error),
        }
    }
}

/// The settings of a Redis that decide whether what it has said is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    asked: bool,
    append: Option<String>,
    fsync: Option<String>,
    no_fsync: Option<String>,
    policy: Option<String>,
}

impl Durability {
    /// Status, reason and message of the condition `QueueDurable`.
    #[must_use]
    pub fn condition(&self) -> (Option<bool>, &'static str, String) {
        let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
        let told = format!(
            "appendonly {}, appendfsync {}, maxmemory-policy {}.",
            said(&self.append),
            said(&self.fsync),
            said(&self.policy)
        );
        let evicts = self
            .policy
            .as_deref()
            .is_some_and(|policy| policy != "noeviction");
        match (
            self.asked,
            self.append.as_deref(),
            self.fsync.as_deref(),
            self.no_fsync.as_deref(),
        ) {
            (false, ..) => (
                None,
                "NotAllowedToAsk",
                "This Redis user may not use CONFIG GET: whether the queue is durable is not known.".into(),
            ),
            _ if evicts => (
                Some(false),
                "Evicting",
                format!("{told} Set maxmemory-policy noeviction: else Redis drops records."),
            ),
            (_, Some("yes"), Some("always"), Some("no")) => (Some(true), "FsyncAlways", told),
            (_, Some("yes"), ..) => (
                Some(true),
                "Likely",
                format!("{told} A crash may lose the last second; the source is confirmed later than that."),
            ),
            _ => (
                Some(false),
                "NotPersistent",
                format!("{told} Set appendonly yes: else a restart loses the queue."),
            ),
        }
    }
}
