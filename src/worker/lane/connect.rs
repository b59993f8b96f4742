//! Connecting a lane: raise every token, read D again, and go back to it (rules 2 and 5).

use super::{
    order::Notice,
    task::{Seating, Task},
};
use crate::{
    destination::postgres::{LaneError, Progress, Session},
    record::Position,
};

impl Task {
    /// Connects, and takes the seated maps over. False: the engine was told that the destination is away.
    pub(super) async fn connect(&mut self) -> bool {
        match self.open().await {
            Ok(()) => true,
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    async fn open(&mut self) -> Result<(), LaneError> {
        let session = Session::connect(
            &self.settings,
            "tablemap",
            self.timeouts.lock,
            self.timeouts.statement,
        )
        .await?;
        let seated: Vec<usize> = (0..self.seats.len())
            .filter(|index| self.is_writable(*index))
            .collect();
        let maps: Vec<(&str, i64)> = seated
            .iter()
            .map(|index| (self.targets[*index].map_id.as_str(), self.targets[*index].epoch))
            .collect();
        let found = session.take(&maps).await?;
        let up = seated.into_iter().zip(found).collect::<Vec<_>>();
        for (index, progress) in &up {
            self.resume(*index, progress.clone());
        }
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
        self.flushed();
        Ok(())
    }

    /// `take` commits durably, so what it read is flushed.
    fn resume(&mut self, index: usize, progress: Progress) {
        let went_back = progress.position < self.seats[index].flushed.position;
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
            .is_some_and(|seat| matches!(seat.seating, Seating::Direct | Seating::Replaying))
    }

    /// Nothing more of this seat is written; the engine will evict it.
    pub(super) fn set_aside(&mut self, index: usize) {
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
            // The next connect tells whether it was more than a blink.
            LaneError::Lost { message } => {
                tracing::info!(%message, "the connection to the destination was lost; connecting again");
                self.session = None;
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
