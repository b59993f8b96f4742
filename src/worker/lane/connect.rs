//! Connecting a lane: raise every token, read D again, and go back to it (rules 2 and 5).

use super::{
    order::Notice,
    task::{Seating, Task, Timeouts},
    write::Patience,
};
use crate::{
    connection::postgres::Settings,
    destination::postgres::{LaneError, Progress, Session},
    failure::Class,
    record::Position,
};

/// So many connections in a row may be lost before a write succeeds; then the destination counts as away.
const LOSSES: u32 = 3;

impl Task {
    /// Connects, and takes the seated maps over. False: the engine was told that the destination is away.
    pub(super) async fn connect(&mut self) -> bool {
        let seated: Vec<usize> = (0..self.seats.len())
            .filter(|index| self.is_writable(*index))
            .collect();
        let maps: Vec<(String, i64)> = seated
            .iter()
            .map(|index| (self.targets[*index].map_id.clone(), self.targets[*index].epoch))
            .collect();
        let patience = Patience {
            inbox: &mut self.inbox,
            pending: &mut self.pending,
            evict: self.timeouts.evict,
        };
        let opened = patience.wait(open(&self.settings, self.timeouts, &maps)).await;
        match opened {
            Some(Ok((session, found))) => {
                self.up(session, seated.into_iter().zip(found).collect()).await;
                true
            }
            // A destination that takes connections and does not answer is away.
            Some(Err(LaneError::Lost { message })) => {
                self.fail(away(message));
                false
            }
            Some(Err(error)) => {
                self.fail(error);
                false
            }
            None => true,
        }
    }

    async fn up(&mut self, session: Session, up: Vec<(usize, Progress)>) {
        for (index, progress) in &up {
            self.resume(*index, progress.clone());
        }
        self.settle_errors().await;
        let targets = &self.targets;
        let has = |index: usize| {
            targets
                .get(index)
                .map_or(Position::ZERO, |target| target.progress.position)
        };
        self.window.rewind(has);
        self.merge.rewind(has);
        self.session = Some(session);
        self.tell(Notice::Up(up));
        // `take` commits durably, and with it all that it found.
        let losses = self.losses;
        self.flushed();
        self.losses = losses;
    }

    /// What was parked for a transaction whose end is not known either holds now, or will be parked again (rule 3).
    async fn settle_errors(&mut self) {
        for index in 0..self.seats.len() {
            if !self.is_writable(index) || !self.targets[index].provisional {
                continue;
            }
            let store = self.store.clone();
            if let Err(error) = self.targets[index].settle(&*store).await {
                self.fail(error);
            }
        }
    }

    fn resume(&mut self, index: usize, progress: Progress) {
        let went_back = progress.position < self.seats[index].flushed.position;
        // A destination that failed over may lack a retry, and nothing else.
        if progress.parks() != self.targets[index].progress.parks() {
            self.targets[index].provisional = true;
        }
        self.targets[index].progress = progress.clone();
        if went_back {
            self.set_aside(index);
            self.tell(Notice::WentBack {
                seat: index,
                progress,
            });
        }
    }

    pub(super) fn is_writable(&self, index: usize) -> bool {
        self.seats
            .get(index)
            .is_some_and(|seat| seat.seating.is_writable())
    }

    /// Nothing more of this seat is written; the engine will evict it.
    pub(super) fn set_aside(&mut self, index: usize) {
        self.drop_retries(index);
        let stash = self.window.evict(index);
        self.merge.stop(index);
        if let Some(seat) = self.seats.get_mut(index) {
            seat.seating = Seating::Aside;
            seat.stash.extend(stash);
        }
    }

    /// Tells the engine what went wrong, and sets aside whom it concerns.
    pub(super) fn fail(&mut self, error: LaneError) {
        match error {
            LaneError::Fenced { maps } => self.each(&maps, |seat| Notice::Fenced { seat }),
            LaneError::Store { map, message } => {
                self.each(&[map], |seat| Notice::CannotPark {
                    seat,
                    message: message.clone(),
                });
            }
            LaneError::Destination { reason, message, .. } => {
                self.session = None;
                for index in 0..self.seats.len() {
                    if self.is_writable(index) {
                        self.set_aside(index);
                    }
                }
                self.tell(Notice::Down { reason, message });
            }
            // The next connect tells whether it was more than a blink, and a smaller batch whether it was too much.
            LaneError::Lost { message } if self.losses < LOSSES => {
                tracing::info!(%message, "the connection to the destination was lost; connecting again");
                self.losses += 1;
                self.reach = (self.reach / 4).max(1);
                self.session = None;
            }
            LaneError::Lost { message } => {
                self.losses = 0;
                self.fail(away(message));
            }
        }
    }

    fn each(&mut self, map_ids: &[String], notice: impl Fn(usize) -> Notice) {
        for index in 0..self.seats.len() {
            if self.is_writable(index) && map_ids.contains(&self.targets[index].map_id) {
                self.set_aside(index);
                self.tell(notice(index));
            }
        }
    }
}

/// Connects, and raises the tokens of these maps.
async fn open(
    settings: &Settings,
    timeouts: Timeouts,
    maps: &[(String, i64)],
) -> Result<(Session, Vec<Progress>), LaneError> {
    let mut session = Session::connect_apart(settings, "tablemap", timeouts.lock, timeouts.statement).await?;
    let maps: Vec<(&str, i64)> = maps.iter().map(|(map, epoch)| (map.as_str(), *epoch)).collect();
    let found = session.take(&maps).await?;
    Ok((session, found))
}

fn away(message: String) -> LaneError {
    LaneError::Destination {
        class: Class::Unavailable,
        reason: "Unreachable",
        message: format!("The destination does not keep a connection: {message}."),
    }
}
