//! Whether what a Redis has said would outlive a failover.

use super::{Link, NAMED, Topology};
use crate::queue::QueueError;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A server that nobody has named for this long may have been replaced.
const VOUCHED: Duration = Duration::from_secs(2 * NAMED.as_secs());

/// Looks whose replicas have not acknowledged what was written by then. More than that are not kept.
const LOOKS: usize = 64;

/// Offsets of the replication stream, and when they were read.
#[derive(Debug, Default)]
pub(super) struct Looks(VecDeque<(u64, Instant)>);

impl Looks {
    /// What was written before the answer is on every replica that has acknowledged `offsets.written`.
    fn look(&mut self, offsets: Offsets, at: Instant) -> Option<Instant> {
        // Another server counts from another offset.
        if self
            .0
            .back()
            .is_some_and(|(written, _)| *written > offsets.written)
        {
            self.0.clear();
        }
        if self.0.len() < LOOKS {
            self.0.push_back((offsets.written, at));
        }
        let mut kept = None;
        while let Some((written, at)) = self.0.front().copied()
            && written <= offsets.acknowledged
        {
            kept = Some(at);
            self.0.pop_front();
        }
        kept
    }
}

/// How far a server has written, and how far the last of its replicas has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offsets {
    written: u64,
    acknowledged: u64,
}

impl Offsets {
    /// Reads `INFO replication` (Redis manual, "INFO"). A replica that is being filled is not chosen by a failover.
    fn read(info: &str) -> Option<Self> {
        let value = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        // One that was a master has what its new one had a while ago.
        if value("role")?.trim() != "master" {
            return None;
        }
        let written = value("master_repl_offset")?.trim().parse().ok()?;
        let replicas = info
            .lines()
            .filter_map(|line| line.strip_prefix("slave")?.split_once(':'));
        let online = replicas.filter(|(_, facts)| facts.contains("state=online"));
        let offsets = online.filter_map(|(_, facts)| {
            let mut facts = facts.trim().split(',');
            facts.find_map(|fact| fact.strip_prefix("offset=")?.parse::<u64>().ok())
        });
        Some(Self {
            written,
            acknowledged: offsets.min().unwrap_or(written),
        })
    }
}

impl Link {
    /// Tells one connection from the next, which may lead to another server.
    pub async fn opened(&self) -> Option<Instant> {
        self.shared
            .connection
            .lock()
            .await
            .as_ref()
            .map(|known| known.opened)
    }

    /// Up to when everything that was written would outlive a failover: a server alone has none, and another is looked at
    /// together with its replicas, as long as the others name it, and if what was read since `opened` came from it. None:
    /// that is not known now. A master that is cut off from the others takes writes that are lost when it comes back (Redis
    /// manual, "WAIT": a failover may choose a replica that has not acknowledged).
    ///
    /// # Errors
    /// As [`Link::query`].
    pub async fn kept(&self, opened: Option<Instant>) -> Result<Option<Instant>, QueueError> {
        let at = Instant::now();
        if matches!(
            self.shared.settings.borrow().1.topology,
            Topology::Standalone { .. }
        ) {
            return Ok(Some(at));
        }
        let info: String = match self.query(redis::cmd("INFO").arg("replication")).await {
            Ok(info) => info,
            // A user who may not ask.
            Err(QueueError::Refused(_)) => return Ok(Some(at)),
            Err(error) => return Err(error),
        };
        let Some(offsets) = Offsets::read(&info) else {
            return Ok(None);
        };
        let mut known = self.shared.connection.lock().await;
        let is_vouched_for = |known: &&mut super::Known| {
            known.vouched.is_some_and(|at| at.elapsed() < VOUCHED) && Some(known.opened) == opened
        };
        Ok(known
            .as_mut()
            .filter(is_vouched_for)
            .and_then(|known| known.looks.look(offsets, at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(written: u64, acknowledged: u64) -> Offsets {
        Offsets {
            written,
            acknowledged,
        }
    }

    #[test]
    fn the_last_replica_that_is_online_counts() {
        let info = "role:master\r\nconnected_slaves:3\r\n\
                    slave0:ip=10.0.0.1,port=6379,state=online,offset=900,lag=0\r\n\
                    slave1:ip=10.0.0.2,port=6379,state=online,offset=700,lag=1\r\n\
                    slave2:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0\r\n\
                    master_repl_offset:1000\r\n";
        assert_eq!(Offsets::read(info), Some(offsets(1000, 700)));
        let alone = "role:master\r\nconnected_slaves:0\r\nmaster_repl_offset:1000\r\n";
        assert_eq!(Offsets::read(alone), Some(offsets(1000, 1000)));
        assert_eq!(Offsets::read("role:master\r\n"), None);
        assert_eq!(Offsets::read(&alone.replace("master\r", "slave\r")), None);
    }

    #[test]
    fn a_look_counts_when_the_replicas_have_come_as_far() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut looks = Looks::default();
        assert_eq!(looks.look(offsets(100, 100), after(0)), Some(after(0)));
        assert_eq!(looks.look(offsets(200, 150), after(1)), None);
        assert_eq!(looks.look(offsets(300, 250), after(2)), Some(after(1)));
        assert_eq!(looks.look(offsets(300, 300), after(3)), Some(after(3)));
        // Another master, which has begun anew.
        assert_eq!(looks.look(offsets(400, 300), after(4)), None);
        assert_eq!(looks.look(offsets(10, 10), after(5)), Some(after(5)));
    }

    #[test]
    fn replicas_that_stay_behind_take_no_memory() {
        let mut looks = Looks::default();
        for written in 0..1000 {
            looks.look(offsets(written + 1, 0), Instant::now());
        }
        assert_eq!(looks.0.len(), LOOKS);
    }
}
