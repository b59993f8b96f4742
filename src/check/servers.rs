//! What the servers say, in the words of the conditions.

use super::{Bad, Verdict};
use crate::{
    connection::{postgres, redis as connection},
    destination::postgres::Control,
    queue::{Queue, QueueError},
    source::postgres::{Admin, Stream},
    worker,
};

/// Whether a Postgres takes the login, wherever it is used.
pub async fn postgres(settings: &postgres::Settings) -> Result<String, Bad> {
    let connected = postgres::connect(settings, "tablemap-check").await;
    let connected = connected.map_err(|error| (error.reason(), error.to_string()))?;
    let version = connected.client.query_one("SHOW server_version", &[]).await;
    let version: String = version.map_or_else(|_| "?".into(), |row| row.get(0));
    Ok(format!("connected to PostgreSQL {version}."))
}

/// Whether a Redis takes the login, lets it do what a queue does, and keeps what it has confirmed.
pub async fn redis(settings: &connection::Settings) -> Vec<Verdict> {
    // The queue of no map: each script looks for its epoch before it changes anything.
    let id = uuid::Uuid::new_v4().to_string();
    let queue = match Queue::connect(settings, "check", &id, "check").await {
        Ok(queue) => queue,
        Err(error) => return vec![queue_bad(error.to_string())],
    };
    let durability = queue.durability().await;
    let allowed = match queue.meta().await {
        Ok(_) => match queue.clear_fenced().await {
            Ok(()) | Err(QueueError::EpochMissing) => Ok(()),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = allowed {
        return vec![queue_bad(error.to_string())];
    }
    match durability.map(|durability| durability.condition()) {
        Ok((Some(true), "FsyncAlways", message)) => vec![Verdict::Good(message)],
        Ok((_, reason, message)) => vec![Verdict::Doubtful { reason, message }],
        Err(error) => vec![queue_bad(error.to_string())],
    }
}

fn queue_bad(message: String) -> Verdict {
    Verdict::Bad {
        reason: "QueueUnavailable",
        message,
    }
}

/// Whether a Postgres can be a source: its settings, the user's rights, a session that streams, a slot.
pub async fn source(
    admin: &Admin,
    settings: &postgres::Settings,
    given: Option<(&str, &str)>,
) -> Result<Vec<Verdict>, Bad> {
    let source_bad = |error: crate::source::postgres::SourceError| (error.reason(), error.to_string());
    admin.inspect_server().await.map_err(source_bad)?;
    let left = admin.may_replicate(given.is_none()).await.map_err(source_bad)?;
    Stream::probe(settings).await.map_err(source_bad)?;
    if let Some((slot, _)) = given {
        return match admin.slot(slot).await.map_err(source_bad)? {
            Some(state) if !state.is_lost() => Ok(Vec::new()),
            _ => {
                let message = format!(
                    "the replication slot {slot} does not exist, or has lost its log: SELECT \
                     pg_create_logical_replication_slot('{slot}', 'pgoutput')"
                );
                Err(("SlotMissing", message))
            }
        };
    }
    let doubt = Verdict::Doubtful {
        reason: "NoSlotsLeft",
        message: format!(
            "all {} replication slots are in use, {} of them by workers: a new worker needs one more: drop one that nobody \
             uses, or raise max_replication_slots.",
            left.most, left.ours
        ),
    };
    Ok((left.used >= left.most).then_some(doubt).into_iter().collect())
}

/// Whether the tables fit the mapping, and the source's may join.
pub async fn tables(plan: &worker::Plan, admin: &Admin, given: Option<(&str, &str)>) -> Result<(), Bad> {
    let control = Control::look(&plan.destination_settings)
        .await
        .map_err(|error| (error.reason(), error.to_string()))?;
    worker::fit(plan, &control, admin)
        .await
        .map_err(|failure| (failure.0.reason, failure.0.message))?;
    let (schema, name) = &plan.source_table;
    let key = plan.mapping.key_source_columns();
    admin
        .may_join((schema, name), &key, given.map(|(_, publication)| publication))
        .await
        .map_err(|error| (error.reason(), error.to_string()))
}
