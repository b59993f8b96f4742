//! The link to the source: look, check what is held, stream; and again after each loss (rules 1, 4 and 14).

use super::{
    Engine, Event,
    effects::{self, ReadBack, SourceState},
};
use crate::{
    failpoint,
    record::{Era, Lsn, Position},
    source::postgres::{Admin, Identity, SourceError},
    trace,
    worker::{
        map::{Blocked, Lost, Map, MapId, Side, SideState, Stage},
        plan::Plan,
        reader::{Reader, Start},
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The source goes on in another era than a map's positions.
fn another_era(known: &Era, era: &Era) -> Blocked {
    if known.is_of_server(era) {
        let what = format!(
            "The map's slot of generation {} is gone; another map of its worker has gone on with generation {}.",
            known.generation, era.generation
        );
        return Blocked::SlotLost(Lost::new(&what, None, None));
    }
    let what = format!(
        "The source is another system, or another timeline of it: system {} on timeline {}, and the map's positions \
         belong to system {} on timeline {}.",
        era.system, era.timeline, known.system, known.timeline
    );
    Blocked::SourceReplaced(Lost::new(&what, None, None))
}

/// Where the link stands.
#[derive(Debug, Default)]
enum State {
    /// Waits for its maps, or for time to pass.
    #[default]
    Down,
    Looking,
    Starting,
    Streaming(Reader),
}

/// The stream that all maps share.
#[derive(Debug, Default)]
pub struct Link {
    state: State,
    session: u64,
    generation: u32,
    era: Option<Era>,
    publication: Option<String>,
    confirmed: Lsn,
    retry_at: Option<Instant>,
    failures: u32,
    /// Another rewind was asked for while one is under way.
    again: bool,
    pub trouble: Option<(&'static str, String)>,
}

impl Link {
    pub fn reader(&self) -> Option<&Reader> {
        match &self.state {
            State::Streaming(reader) => Some(reader),
            _ => None,
        }
    }

    pub fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming(_))
    }

    pub fn is_current(&self, session: u64) -> bool {
        self.session == session
    }

    /// What the source was told: it has forgotten everything at or below it.
    pub fn confirmed(&self) -> Position {
        match self.confirmed {
            Lsn(0) => Position::ZERO,
            lsn => self.through(lsn),
        }
    }

    /// A place in the log of the present era.
    pub fn through(&self, lsn: Lsn) -> Position {
        Position::through(self.generation, lsn)
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    pub fn set_confirmed(&mut self, lsn: Lsn) {
        self.confirmed = self.confirmed.max(lsn);
    }

    pub fn era_and_publication(&self) -> Option<(Era, String)> {
        self.era.clone().zip(self.publication.clone())
    }

    pub fn session(&self) -> u64 {
        self.session
    }

    pub fn slot(&self) -> Option<&str> {
        self.publication.as_deref()
    }
}

impl Engine {
    /// The main slot of this worker.
    pub(super) fn slot_name(&self) -> String {
        self.source.names(self.link.generation.max(1)).0
    }

    /// The publication of this worker; the slot has the same name, if the worker made them.
    pub(super) fn publication(&self) -> String {
        self.source.names(self.link.generation.max(1)).1
    }

    /// Begins to look at the source, once every known map was tried at least once.
    pub(super) fn start_source(&mut self) {
        let waiting = self.plans.keys().any(|id| {
            !self.maps.contains_key(id) && self.attempt(id).is_none_or(|attempt| attempt.blocked.is_none())
        });
        if !self.listed || waiting || self.closing.is_some() || self.is_left() {
            return;
        }
        match self.link.state {
            State::Down if self.link.retry_at.is_none() => self.look_at_source(),
            State::Streaming(_) => self.join_all(),
            _ => {}
        }
    }

    /// Maps that are cleaned up wait only for their objects to go.
    fn is_left(&self) -> bool {
        self.maps.values().all(|map| map.stage == Stage::Gone)
    }

    fn look_at_source(&mut self) {
        let newest = self.newest_era().map_or(1, |era| era.generation);
        self.link.generation = newest.max(self.link.generation);
        let (slot, publication) = self.source.names(self.link.generation);
        self.link.publication = Some(publication);
        self.link.state = State::Looking;
        self.link.again = false;
        self.link.session += 1;
        let settings = self.source.settings.clone();
        let (generation, session) = (self.link.generation, self.link.session);
        let (asked, sides) = (self.asked(), self.side_names());
        self.spawn(async move {
            let span = trace::span!("source.look", %slot, maps = asked.len());
            let seen = trace::within(span, effects::look(settings, slot, generation, asked, &sides)).await;
            let result = seen.map(Box::new);
            Event::SourceSeen { session, result }
        });
    }

    pub(super) fn source_seen(&mut self, session: u64, result: Result<Box<SourceState>, SourceError>) {
        if !self.link.is_current(session) {
            return;
        }
        let seen = match result {
            Ok(seen) => *seen,
            Err(error) => return self.source_failed(&error),
        };
        let unread = |plan: &Arc<Plan>| (plan.joined() || plan.adopts) && !self.maps.contains_key(&plan.id);
        let joined = self.maps.values().any(Map::has_joined) || self.plans.values().any(unread);
        match seen.slot {
            Some(slot) => {
                self.link.confirmed = slot.confirmed;
                self.sides_seen(&seen.slots);
                if slot.is_lost() {
                    let what =
                        "The slot has lost WAL that it needed: raise max_slot_wal_keep_size at the source.";
                    self.block_all(|_| Blocked::SlotLost(Lost::new(what, None, None)));
                }
                self.hold_against(seen.era, seen.queues);
                self.stream();
            }
            None if joined => {
                let (slot, _) = self.source.names(self.link.generation);
                let message = format!(
                    "The replication slot {slot} does not exist any more: changes since the last confirmed position \
                     are gone from the source."
                );
                self.block_all(|map| {
                    let known = map.era.as_ref().filter(|known| !known.is_of_server(&seen.era));
                    known.map_or_else(
                        || Blocked::SlotLost(Lost::new(&message, None, None)),
                        |known| another_era(known, &seen.era),
                    )
                });
                self.source_down(Some(("SlotLost", message)));
            }
            // The last map was cleaned up while the source was looked at: its slot must not be made anew.
            None if self.is_left() => self.stop_source(),
            None if self.source.external.is_some() => {
                let (slot, _) = self.source.names(self.link.generation);
                let message = format!(
                    "The replication slot {slot} does not exist: SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput'), or use \
                     `management: Managed`."
                );
                self.source_down(Some(("SlotMissing", message)));
            }
            None => {
                self.link.era = Some(seen.era);
                self.make_slot();
            }
        }
    }

    /// Empty publication, then slot: only while no map of the worker has a position (rules 13 and 14).
    fn make_slot(&mut self) {
        let settings = self.source.settings.clone();
        let (slot, publication) = self.source.names(self.link.generation);
        let managed = self.source.external.is_none();
        let (generation, session) = (self.link.generation, self.link.session);
        self.spawn(async move {
            let made = async {
                let admin = Admin::connect(&settings).await?;
                if managed {
                    admin.create_publication_empty(&publication).await?;
                    admin.create_slot(&slot).await?;
                }
                effects::look(settings.clone(), slot, generation, Vec::new(), &[]).await
            };
            let result = made.await.map(Box::new);
            Event::SourceSeen { session, result }
        });
    }

    /// Compares the slot with what each map's custodians hold (rule 1).
    fn hold_against(&mut self, era: Era, queues: Vec<ReadBack>) {
        self.read_back(queues);
        for id in self.those(Map::has_joined) {
            let Some(map) = self.maps.get_mut(&id) else {
                continue;
            };
            if let Some(known) = map.era.clone().filter(|known| *known != era) {
                self.expel(&id);
                self.block(&id, another_era(&known, &era));
                continue;
            }
            map.era = Some(era.clone());
            let lost_before = matches!(map.blocked, Some(Blocked::PositionLost(_)));
            if let Err(gap) = map.check(self.link.confirmed()) {
                self.lose(&id, gap);
            } else if lost_before {
                self.look_again(&id);
            } else {
                // A check may have waited for this look.
                map.retry_at = None;
                self.drive(&id);
            }
        }
        self.link.era = Some(era);
    }

    /// The newest era that a map of this worker has a position in.
    pub(super) fn newest_era(&self) -> Option<Era> {
        let joined = self.maps.values().filter(|map| map.has_joined());
        let eras = joined.filter_map(|map| map.era.clone());
        eras.max_by_key(|era| era.generation)
    }

    fn block_all(&mut self, blocked: impl Fn(&Map) -> Blocked) {
        let joined = self.maps.values().filter(|map| map.has_joined());
        let lost: Vec<(MapId, Blocked)> = joined.map(|map| (map.id.clone(), blocked(map))).collect();
        for (id, blocked) in lost {
            self.expel(&id);
            self.block(&id, blocked);
        }
    }

    fn stream(&mut self) {
        let (slot, publication) = self.source.names(self.link.generation);
        let start = Start {
            settings: self.source.settings.clone(),
            slot,
            publication,
            generation: self.link.generation,
            session: self.link.session,
        };
        // What every map has taken stays taken: the stream begins below it, and the maps skip what they have.
        let (through, confirmed) = (self.through, self.link.confirmed());
        for map in self.maps.values_mut() {
            // One that fell back below what the main slot has forgotten needs its side slot again.
            let received = map.received;
            let fell_back = |side: &&mut Side| side.state == SideState::Leaving && received < confirmed;
            if let Some(side) = map.side.as_mut().filter(fell_back) {
                side.state = SideState::Keeps;
            }
        }
        for map in self.maps.values_mut().filter(|map| map.may_take()) {
            map.received = map.taken(through);
            map.current = !map.is_beside() && map.unseen.is_none();
        }
        self.through = Position::ZERO;
        self.routes.clear();
        self.link.state = State::Starting;
        // Before a replay begins: what a side slot has still to send comes first.
        self.look_at_idle();
        let (budget, readings, session) = (self.budget.clone(), self.to_readings.clone(), self.link.session);
        self.spawn(async move {
            Event::SourceStarted {
                session,
                result: Reader::start(start, budget, readings).await,
            }
        });
    }

    pub(super) fn source_started(&mut self, session: u64, result: Result<(Reader, Identity), SourceError>) {
        if !self.link.is_current(session) {
            return;
        }
        match result {
            Ok((_, identity)) if !self.is_the_source(&identity) => {
                let era = self.link.era.clone().unwrap_or_default();
                let message = format!(
                    "The source that streams is system {} on timeline {}, and the one that was looked at {} on timeline \
                     {}: do the Connection's hosts lead to different servers?",
                    identity.system, identity.timeline, era.system, era.timeline
                );
                self.source_down(Some(("SourceReplaced", message)));
            }
            Ok((reader, _)) => {
                tracing::info!(slot = self.link.slot(), confirmed = %self.link.confirmed, "reading from the source");
                self.link.state = State::Streaming(reader);
                failpoint::hit("streaming");
                self.link.failures = 0;
                self.link.trouble = None;
                if self.link.again {
                    return self.rewind();
                }
                self.join_all();
                self.report_everywhere();
            }
            Err(error) => self.source_failed(&error),
        }
    }

    /// Whether the stream comes from the server whose slot and era were looked at.
    fn is_the_source(&self, identity: &Identity) -> bool {
        let era = self.link.era.as_ref();
        era.is_none_or(|era| era.system == identity.system && era.timeline == identity.timeline)
    }

    pub(super) fn source_ended(&mut self, session: u64, error: &SourceError) {
        if self.link.is_current(session) {
            self.source_failed(error);
        }
    }

    fn source_failed(&mut self, error: &SourceError) {
        tracing::warn!(reason = error.reason(), %error, "the source was lost; connecting again");
        self.source_down(Some((error.reason(), error.to_string())));
    }

    fn source_down(&mut self, trouble: Option<(&'static str, String)>) {
        self.note_through();
        let backoff = Duration::from_millis(200 << self.link.failures.min(6));
        self.link.failures += 1;
        self.link.state = State::Down;
        self.link.session += 1;
        self.link.retry_at = Some(Instant::now() + backoff);
        self.link.trouble = trouble;
        self.report_everywhere();
    }

    /// What the ended session has handed out, the maps that took it have.
    fn note_through(&mut self) {
        self.feeds.clear();
        let through = self.through;
        for map in self.maps.values_mut().filter(|map| map.takes()) {
            map.received = map.taken(through);
        }
        self.through = Position::ZERO;
    }

    pub(super) fn retry_source(&mut self, now: Instant) {
        if self.link.retry_at.is_some_and(|at| at <= now) {
            self.link.retry_at = None;
            self.start_source();
        }
        if self.link.is_streaming() {
            self.join_all();
        }
    }

    /// The worker's last map goes.
    pub(super) fn stop_source(&mut self) {
        self.feeds.clear();
        self.link.state = State::Down;
        self.link.session += 1;
        self.link.retry_at = None;
    }

    /// A map that may take changes takes part in the stream. One that does not would be a mistake of ours, and nobody would
    /// see it: its status says that it runs. So it is looked for, and the stream begun again with it.
    pub(super) fn look_for_left_out(&mut self) {
        let is_left_out = |map: &&Map| {
            let should = map.has_joined() && map.may_take() && !map.is_beside() && !map.cleaning;
            should && map.cleaned.is_none() && !map.current
        };
        if !self.link.is_streaming() {
            return;
        }
        if let Some(map) = self.maps.values().find(is_left_out) {
            tracing::error!(map = %map.plan.name, "the map was left out of the stream; reading again with it");
            self.rewind();
        }
    }

    /// Reads again from the least position; maps skip what they have.
    pub(super) fn rewind(&mut self) {
        match self.link.state {
            State::Streaming(_) => {
                self.note_through();
                self.link.state = State::Down;
                self.link.session += 1;
                self.link.retry_at = None;
                self.look_at_source();
            }
            State::Looking | State::Starting => self.link.again = true,
            State::Down => {}
        }
    }
}
