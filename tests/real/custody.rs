//! A hole that somebody else made is found and said, and nothing is written over it (I1, rules 1, 3, 7 and 14).

use crate::support::{
    audit::{install_audit, install_writelog},
    process::Process,
    proxy::Proxy,
    rig::{Rig, SOON, same_map},
    timing::{part, timed},
    wait::wait_until,
};
use futures::StreamExt;
use std::time::Duration;
use tempfile::TempDir;
use tokio_postgres::Client;

/// What somebody does to the data that the map relies on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The destination is put back to an older copy.
    DestinationOlder,
    RedisEmptied,
    /// Redis is put back to an older copy.
    RedisOlder,
    /// The same, and a record was parked since.
    RedisOlderThanParks,
    SlotDropped,
    SlotMadeAnew,
    SlotAdvanced,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Running,
    Paused,
    /// Paused, with nothing in the queue; and whoever works then is another worker.
    Idle,
    CatchingUp,
    /// Running, for a moment only.
    AfterCutover,
}

/// What must be said: this reason, or nothing, and the map goes on.
type Outcome = Option<&'static str>;

const LOST: Outcome = Some("PositionLost");
const HEALS: Outcome = None;

/// For each pair, what must come of it.
#[rustfmt::skip]
const TABLE: &[(Fault, State, Outcome)] = &[
    (Fault::DestinationOlder,    State::Running,      LOST),
    (Fault::DestinationOlder,    State::Paused,       LOST),
    (Fault::DestinationOlder,    State::Idle,         LOST),
    (Fault::DestinationOlder,    State::CatchingUp,   LOST),
    (Fault::DestinationOlder,    State::AfterCutover, LOST),
    (Fault::RedisEmptied,        State::Running,      LOST),
    (Fault::RedisEmptied,        State::Paused,       LOST),
    (Fault::RedisEmptied,        State::CatchingUp,   LOST),
    // The destination has all that the source has forgotten.
    (Fault::RedisOlder,          State::Running,      HEALS),
    (Fault::RedisOlder,          State::Paused,       LOST),
    (Fault::RedisOlder,          State::CatchingUp,   LOST),
    (Fault::RedisOlderThanParks, State::Running,      Some("ErrorsLost")),
    // The queue is gone with them, and that is worse.
    (Fault::RedisOlderThanParks, State::Paused,       LOST),
    (Fault::RedisOlderThanParks, State::CatchingUp,   LOST),
    (Fault::SlotDropped,         State::Running,      Some("SlotLost")),
    (Fault::SlotDropped,         State::Paused,       Some("SlotLost")),
    (Fault::SlotDropped,         State::CatchingUp,   Some("SlotLost")),
    (Fault::SlotMadeAnew,        State::Running,      LOST),
    (Fault::SlotMadeAnew,        State::Paused,       LOST),
    (Fault::SlotMadeAnew,        State::CatchingUp,   LOST),
    (Fault::SlotAdvanced,        State::Running,      LOST),
    (Fault::SlotAdvanced,        State::Paused,       LOST),
    (Fault::SlotAdvanced,        State::CatchingUp,   LOST),
];

struct Scene {
    rig: Rig,
    source: Proxy,
    destination: Proxy,
    crm: Client,
    copies: TempDir,
    operator: Process,
}

impl Scene {
    async fn start() -> Self {
        let mut rig = Rig::start().await;
        rig.both("CREATE TABLE items (id bigserial PRIMARY KEY, note text)")
            .await;
        let (crm, erp) = (rig.crm().await, rig.erp().await);
        install_audit(&crm, "items", &["id"], &[]).await;
        install_writelog(&erp, "items", &["id"], &[]).await;
        erp.batch_execute("ALTER TABLE items ADD CHECK (note <> 'bad')")
            .await
            .unwrap();
        let source = Proxy::start(rig.source.port);
        let destination = Proxy::start(rig.destination.port);
        rig.connect(source.port, destination.port, rig.redis.port);
        rig.arguments.push("--confirm-delay-milliseconds=1000".into());
        let map = same_map("items", &["id"], &["id", "note"])
            .replace("---\n", "  catchUp: {maxRecordsPerSecond: 40}\n");
        rig.api.apply(&map);
        let operator = rig.operator(&[]);
        rig.condition("items", "CaughtUp", "True").await;
        let copies = tempfile::Builder::new().prefix("tablemap-").tempdir().unwrap();
        let scene = Self {
            rig,
            source,
            destination,
            crm,
            copies,
            operator,
        };
        scene.insert(100).await;
        scene.rig.equal("items", "id").await;
        scene
    }

    async fn insert(&self, rows: u32) {
        let sql = format!("INSERT INTO items (note) SELECT md5(n::text) FROM generate_series(1, {rows}) n");
        self.crm.batch_execute(&sql).await.unwrap();
    }

    fn copy(&mut self, fault: Fault) {
        let to = self.copies.path().join("copy");
        match fault {
            Fault::DestinationOlder => self.rig.destination.copy_to(&to),
            Fault::RedisOlder | Fault::RedisOlderThanParks => self.rig.redis.copy_to(&to),
            _ => {}
        }
    }

    /// Brings the map into a state, with changes since a copy was taken that the source has forgotten.
    async fn enter(&mut self, state: State, fault: Fault) {
        // A queue begins after the copy: what the copy lacks must be missed.
        let early = fault == Fault::DestinationOlder || fault == Fault::RedisOlderThanParks;
        if early {
            self.copy(fault);
            self.insert(50).await;
            self.rig.equal("items", "id").await;
        }
        if fault == Fault::RedisOlderThanParks {
            self.rig.park_one().await;
        }
        if state != State::Running {
            self.rig.pause("items");
            self.rig.condition("items", "Paused", "True").await;
        }
        match state {
            State::Running | State::Idle => {}
            State::CatchingUp => self.insert(3000).await,
            State::Paused | State::AfterCutover => self.insert(30).await,
        }
        if matches!(state, State::CatchingUp | State::AfterCutover) {
            self.rig.resume("items");
        }
        match state {
            State::CatchingUp => drop(self.rig.phase("items", "CatchingUp").await),
            State::AfterCutover => drop(self.rig.condition("items", "CaughtUp", "True").await),
            State::Running | State::Paused | State::Idle => {}
        }
        if !early {
            self.copy(fault);
        }
        match state {
            State::AfterCutover => {}
            State::Idle => self.rig.all_confirmed().await,
            State::Running | State::Paused | State::CatchingUp => {
                self.insert(40).await;
                self.rig.all_confirmed().await;
            }
        }
    }

    async fn commit(&mut self, fault: Fault) {
        let copy = self.copies.path().join("copy");
        match fault {
            Fault::DestinationOlder => {
                self.rig.destination.restore_from(&copy);
                self.rig.destination.start_again().await;
            }
            Fault::RedisEmptied => {
                let mut redis = self.rig.redis.client().await;
                redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
            }
            Fault::RedisOlder | Fault::RedisOlderThanParks => {
                self.rig.redis.restore_from(&copy);
                self.rig.redis.start_again().await;
            }
            Fault::SlotDropped | Fault::SlotMadeAnew | Fault::SlotAdvanced => self.touch_slot(fault).await,
        }
    }

    async fn touch_slot(&self, fault: Fault) {
        self.source.refuse();
        let free = "SELECT count(*) FROM pg_replication_slots WHERE active";
        wait_until(SOON, "an idle slot", async || {
            self.crm.query_one(free, &[]).await.unwrap().get::<_, i64>(0) == 0
        })
        .await;
        self.insert(20).await;
        let slot = "SELECT slot_name::text FROM pg_replication_slots";
        let slot: String = self.crm.query_one(slot, &[]).await.unwrap().get(0);
        let sql = match fault {
            Fault::SlotDropped => format!("SELECT pg_drop_replication_slot('{slot}')"),
            Fault::SlotAdvanced => {
                format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")
            }
            _ => format!(
                "SELECT pg_drop_replication_slot('{slot}');
                 SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
            ),
        };
        self.crm.batch_execute(&sql).await.unwrap();
        self.source.accept();
    }

    async fn writes(&self) -> i64 {
        let sql = "SELECT count(*) FROM writelog.writes";
        self.rig.erp().await.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// The reason is said, and nothing more is written.
    async fn judge_lost(&self, case: &str, reason: &str) {
        let status = self.rig.phase("items", "Blocked").await;
        wait_until(
            SOON,
            &format!("{case}: {reason}, not {}", status["blocked"]),
            async || self.rig.status("items").await["blocked"]["reason"] == reason,
        )
        .await;
        // A write that was under way when the hole was found may still land; a replay of 40 a second would go on.
        let mut before = -1;
        wait_until(SOON, &format!("{case}: no more writes"), async || {
            let known = std::mem::replace(&mut before, self.writes().await);
            tokio::time::sleep(Duration::from_secs(1)).await;
            known == before
        })
        .await;
        // Not a wait for something to come about: nothing may.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(self.writes().await, before, "{case}: written over a hole");
        let status = self.rig.status("items").await;
        assert_eq!(status["blocked"]["reason"], reason, "{case}: {status:#}");
    }

    async fn judge_healed(&self) {
        self.insert(10).await;
        self.rig.equal("items", "id").await;
        self.rig.settled("items").await;
    }
}

async fn check(fault: Fault, state: State, outcome: Outcome) {
    let case = format!("{fault:?} in {state:?}");
    let _time = part("custody");
    println!("{case}");
    let mut scene = Scene::start().await;
    scene.enter(state, fault).await;
    if state == State::Idle {
        scene.operator.kill9();
    }
    scene.commit(fault).await;
    if state == State::Idle {
        scene.operator = scene.rig.operator(&[]);
    }
    // A destination is looked at when the map is to be written again.
    if matches!(state, State::Paused | State::Idle) && fault == Fault::DestinationOlder {
        scene.rig.resume("items");
    }
    match outcome {
        Some(reason) => scene.judge_lost(&case, reason).await,
        None => scene.judge_healed().await,
    }
}

/// Four at a time: each mostly waits to see that nothing more is written.
async fn check_all(states: &[State]) {
    let cases = TABLE.iter().filter(|(_, at, _)| states.contains(at));
    let checks = cases.map(|(fault, state, outcome)| check(*fault, *state, *outcome));
    let checks: Vec<_> = checks.collect();
    futures::stream::iter(checks)
        .buffer_unordered(4)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_made_while_running_is_found() {
    let _time = timed("a_hole_made_while_running_is_found");
    check_all(&[State::Running, State::AfterCutover]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_made_while_paused_is_found() {
    let _time = timed("a_hole_made_while_paused_is_found");
    check_all(&[State::Paused, State::Idle]).await;
}

/// A destination fails over to an older copy, and the connection to the former one says nothing: the fence of a pause is the
/// first to see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_a_pause_meets_first_is_found() {
    let _time = timed("a_hole_that_a_pause_meets_first_is_found");
    let mut scene = Scene::start().await;
    scene.copy(Fault::DestinationOlder);
    scene.insert(50).await;
    scene.rig.equal("items", "id").await;
    scene.rig.all_confirmed().await;
    scene.destination.freeze_open();
    scene.commit(Fault::DestinationOlder).await;
    scene.rig.pause("items");
    scene.insert(10).await;
    scene.judge_lost("a pause", "PositionLost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_made_while_catching_up_is_found() {
    let _time = timed("a_hole_made_while_catching_up_is_found");
    check_all(&[State::CatchingUp]).await;
}
