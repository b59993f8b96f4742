//! Joining: a map's table enters the publication, and the map gets its first position (rule 13).

use super::{Engine, Event, event::JoinFailure};
use crate::{
    api::reasons::{JOINED, QUEUE_NOT_FOUND},
    destination::postgres::Control,
    mapping::KeyType,
    queue::Beginning,
    record::{Era, Origin, Position},
    source::postgres::{Admin, First, JoinError},
    worker::{
        custody::Confirmable,
        map::{Map, MapId, Stage, Unusable, UnusableKind},
        plan::Plan,
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Storing a first position, while the table is locked.
pub(super) const STORE_DEADLINE: Duration = Duration::from_secs(3);
/// How often finishing is tried again, and after how long. What comes meanwhile is held in memory.
const FINISH: u32 = 5;
const BETWEEN: Duration = Duration::from_secs(1);

/// What a join needs.
struct Joining {
    plan: Arc<Plan>,
    epoch: i64,
    queue: crate::queue::Queue,
    era: Era,
    events: mpsc::UnboundedSender<Event>,
    publication: Arc<Semaphore>,
}

impl Engine {
    /// Lets every map that has no position join, once there is a slot.
    pub(super) fn join_all(&mut self) {
        let waits =
            |map: &Map| map.stage == Stage::Joining && map.retry_at.is_none() && map.plan.deletion.is_none();
        for id in self.those(waits) {
            self.join(&id);
        }
    }

    fn join(&mut self, id: &MapId) {
        let Some((era, publication)) = self.link.era_and_publication() else {
            return;
        };
        let retry = self.pace.retry;
        let external = self.source.external.is_some();
        let settings = self.source.settings.clone();
        let events = self.events.clone();
        let Some(map) = self.maps.get_mut(id) else { return };
        if map.joining {
            return;
        }
        map.joining = true;
        map.retry_at = Some(Instant::now() + retry);
        let joining = Joining {
            plan: map.plan.clone(),
            epoch: map.epoch,
            queue: map.queue.clone(),
            era,
            events,
            publication: self.permits.publication(),
        };
        let turn = self.turn(&format!("join {}", joining.plan.destination));
        let map = id.clone();
        self.spawn(async move {
            let _turn = turn.await;
            let result = join(joining, &settings, &publication, external).await;
            Event::Joined { map, result }
        });
    }

    /// Changes beyond `first` are held from now on, until the first position is stored. More may have been handed out
    /// already, if nobody keeps the table's writers out: then the map begins after that, and never within a transaction.
    pub(super) fn activate(&mut self, id: &MapId, beginning: Beginning, ready: oneshot::Sender<Position>) {
        let delay = self.pace.confirm_delay;
        let first = beginning
            .first
            .max(self.through)
            .max(self.reached.end_of_transaction());
        let Some(map) = self.maps.get_mut(id) else { return };
        map.hold_nothing();
        map.stage = Stage::Holding;
        map.unseen = None;
        map.current = self.link.is_streaming();
        map.era = Some(beginning.era);
        map.table = Some(beginning.table);
        map.destination = beginning.destination;
        map.received = first;
        map.stock.account.q = first;
        map.stock.account.t = first;
        map.confirmable = Confirmable::new(delay, map.held_by());
        map.gate = super::boot::fresh_gate(&map.plan);
        self.bind_again();
        let _ = ready.send(first);
    }

    pub(super) fn joined(&mut self, id: &MapId, result: Result<(), JoinFailure>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.joining = false;
        match result {
            Ok(()) => {
                map.retry_at = None;
                map.unusable = None;
                map.stage = Stage::Serving;
                let after = map.stock.account.t.commit;
                let begins = format!("the map begins empty, with the changes after {after}");
                if map.plan.adopts {
                    let note = format!("Neither Redis nor the destination knows queue {id}: {begins}.");
                    self.statuses.warn(&map.plan, QUEUE_NOT_FOUND, note);
                } else {
                    let note = format!(
                        "The table has joined: {begins}. Rows that were there before are not copied."
                    );
                    self.statuses.note(&map.plan, JOINED, note);
                }
                self.drive(id);
                self.report(id);
            }
            Err(failure) => {
                map.stage = Stage::Joining;
                map.hold_nothing();
                map.gate = super::boot::fresh_gate(&map.plan);
                let JoinFailure(unusable) = failure;
                let (reason, message) = (unusable.reason, &unusable.message);
                tracing::warn!(map = %map.plan.name, reason, %message, "the table could not join; trying again");
                map.unusable = Some(unusable);
                self.retry_later(id);
                self.report(id);
            }
        }
    }
}

async fn join(
    joining: Joining,
    settings: &crate::connection::postgres::Settings,
    publication: &str,
    external: bool,
) -> Result<(), JoinFailure> {
    let control = Control::connect(&joining.plan.destination_settings).await?;
    let admin = Admin::connect(settings).await?;
    let source = fit(&joining.plan, &control, &admin).await?;
    let steps = &joining;
    let store = move |first: First| -> crate::source::postgres::Store<'_> {
        Box::pin(steps.store(control, source, first))
    };
    enter(
        &joining.plan,
        &admin,
        publication,
        external,
        &joining.publication,
        store,
    )
    .await?;
    joining.finish().await
}

/// What only the databases can tell is found before the first write. Tells which database the source is.
///
/// # Errors
/// What does not fit, with what mends it; or one of them is away.
pub async fn fit(plan: &Plan, control: &Control, admin: &Admin) -> Result<Origin, JoinFailure> {
    let shape = control.inspect(&plan.destination_table, &plan.mapping).await?;
    let table = (plan.source_table.0.as_str(), plan.source_table.1.as_str());
    let columns = admin
        .key_columns(table, &plan.mapping.key_source_columns())
        .await?;
    let read: Vec<String> = plan.mapping.source_columns().map(ToOwned::to_owned).collect();
    admin.has_columns(&plan.source_table, &read).await?;
    let source = admin.origin().await?;
    for (destination, source) in shape.key.iter().zip(&columns) {
        let fits = KeyType::of(*destination, source);
        fits.map_err(|why| JoinError::Key(format!("{}: {why}", source.name)))?;
    }
    Ok(source)
}

/// Lets a map's table enter the publication; `store` is given its first position.
pub(super) async fn enter<'s>(
    plan: &Plan,
    admin: &Admin,
    publication: &str,
    external: bool,
    turns: &Semaphore,
    store: impl FnOnce(First) -> crate::source::postgres::Store<'s> + Send,
) -> Result<(), JoinError> {
    let table = (plan.source_table.0.as_str(), plan.source_table.1.as_str());
    let key = plan.mapping.key_source_columns();
    if external {
        admin.join_external(table, &key, publication, store).await
    } else {
        admin.join(table, &key, publication, turns, store).await
    }
}

impl Joining {
    /// Has the engine hold what comes from now on, and stores the first position with both custodians: all of it before
    /// the table's lock is released.
    async fn store(
        &self,
        mut control: Control,
        source: Origin,
        First { position, table }: First,
    ) -> Result<(), String> {
        let stored = async {
            let mut beginning = Beginning {
                first: Position::through(self.era.generation, position),
                era: self.era.clone(),
                table,
                source,
                destination: control.database().clone(),
                serves: self.plan.serves(),
            };
            let (ready, answer) = oneshot::channel();
            let _ = self.events.send(Event::Activate {
                map: self.plan.id.clone(),
                beginning: Box::new(beginning.clone()),
                ready,
            });
            beginning.first = answer.await.map_err(|_| "the worker is ending".to_owned())?;
            self.queue
                .join(&beginning, self.epoch)
                .await
                .map_err(|error| error.to_string())?;
            control
                .join(&self.plan.id, self.epoch, &self.era, beginning.first)
                .await
                .map_err(|error| error.to_string())
        };
        match tokio::time::timeout(STORE_DEADLINE, stored).await {
            Ok(stored) => stored,
            Err(_) => Err("the first position could not be stored in time".into()),
        }
    }

    /// Says in Redis that the table has joined. A lost answer is no reason to join once more.
    async fn finish(&self) -> Result<(), JoinFailure> {
        let mut tries = 0;
        loop {
            match self.queue.finish_join().await {
                Ok(()) => return Ok(()),
                Err(error) if tries < FINISH => {
                    tracing::info!(map = %self.plan.name, %error, "the join could not be finished; trying again");
                    tries += 1;
                    tokio::time::sleep(BETWEEN).await;
                }
                Err(error) => {
                    return Err(JoinFailure(Unusable {
                        reason: "QueueUnavailable",
                        message: error.to_string(),
                        kind: UnusableKind::Unjoined,
                    }));
                }
            }
        }
    }
}
