//! Random load, faults, pauses and resumes on five maps for a while: nothing is lost, nothing steps back, and the books
//! balance at rest. `make soak` takes twenty minutes for it.

use crate::support::{
    audit::compare_databases,
    load::{COLUMNS, Load, Rate, prepare},
    process::Process,
    proxy::Proxy,
    rig::{Rig, same_map},
    timing::timed,
    wait::wait_until,
};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const TABLES: &[&str] = &["alpha", "beta", "gamma", "delta", "epsilon"];
const RATE: Rate = Rate {
    connections: 2,
    rows: 3,
    pause: Duration::from_millis(12),
    keys: 300,
};
const ARGUMENTS: &[&str] = &[
    "--lease-seconds=2",
    "--confirm-delay-milliseconds=1000",
    "--side-slot-seconds=1",
];
/// After a fault and a long pause, on two busy cores.
const REST: Duration = Duration::from_secs(180);
/// The operator with its worker, in KiB: what it has after a minute and after twenty.
const MEMORY: u64 = 200 << 10;

#[derive(Clone, Copy, Debug)]
enum Act {
    Pause,
    Resume,
    PauseAll,
    ResumeAll,
    KillWorker,
    StopWorker,
    KillRedis,
    KillSource,
    KillDestination,
    Cut,
    CutWithin,
    HoldReplies,
    LockTable,
    EndSessions,
}

/// Each with how often it comes.
#[rustfmt::skip]
const ACTS: &[(Act, u32)] = &[
    (Act::Pause, 10), (Act::Resume, 12), (Act::PauseAll, 2), (Act::ResumeAll, 3),
    (Act::KillWorker, 2), (Act::StopWorker, 1), (Act::KillRedis, 1), (Act::KillSource, 1), (Act::KillDestination, 1),
    (Act::Cut, 2), (Act::CutWithin, 2), (Act::HoldReplies, 1), (Act::LockTable, 1), (Act::EndSessions, 1),
];

struct Soak {
    rig: Rig,
    /// To the source, the destination and Redis.
    proxies: [Proxy; 3],
    worker: Process,
    random: fastrand::Rng,
    peak: u64,
}

impl Soak {
    async fn start(seed: u64) -> Self {
        let mut rig = Rig::start().await;
        prepare(&rig, TABLES).await;
        let proxies = [rig.source.port, rig.destination.port, rig.redis.port].map(Proxy::start);
        rig.connect(proxies[0].port, proxies[1].port, proxies[2].port);
        rig.arguments
            .extend(ARGUMENTS.iter().map(|argument| (*argument).to_owned()));
        for table in TABLES {
            rig.api.apply(&same_map(table, &["id"], COLUMNS));
        }
        let worker = rig.operator(&[]);
        for map in TABLES {
            rig.condition(map, "CaughtUp", "True").await;
        }
        Self {
            rig,
            proxies,
            worker,
            random: fastrand::Rng::with_seed(seed),
            peak: 0,
        }
    }

    fn choose(&mut self) -> Act {
        let mut ticket = self.random.u32(0..ACTS.iter().map(|(_, weight)| weight).sum());
        let chosen = ACTS.iter().find(|(_, weight)| {
            let found = ticket < *weight;
            ticket = ticket.saturating_sub(*weight);
            found
        });
        chosen.unwrap().0
    }

    fn table(&mut self) -> &'static str {
        TABLES[self.random.usize(0..TABLES.len())]
    }

    fn while_it_lasts(&mut self, milliseconds: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(milliseconds))
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Pause => {
                let map = self.table();
                self.rig.pause(map);
            }
            Act::Resume => {
                let map = self.table();
                self.rig.resume(map);
            }
            Act::PauseAll => TABLES.iter().for_each(|map| self.rig.pause(map)),
            Act::ResumeAll => TABLES.iter().for_each(|map| self.rig.resume(map)),
            Act::KillWorker => {
                self.peak = self.peak.max(self.worker.peak_memory());
                self.worker.kill9();
                self.worker = self.rig.operator(&[]);
            }
            Act::StopWorker => {
                let pause = self.while_it_lasts(500..6000);
                self.worker.signal(Signal::SIGSTOP);
                tokio::time::sleep(pause).await;
                self.worker.signal(Signal::SIGCONT);
            }
            Act::KillRedis => {
                self.rig.redis.kill9();
                self.rig.redis.start_again().await;
            }
            Act::KillSource => {
                self.rig.source.kill9();
                self.rig.source.start_again().await;
            }
            Act::KillDestination => {
                self.rig.destination.kill9();
                self.rig.destination.start_again().await;
            }
            Act::Cut => self.proxies[self.random.usize(0..3)].cut(),
            Act::CutWithin => {
                let (proxy, bytes) = (self.random.usize(0..3), self.random.usize(100..20_000));
                self.proxies[proxy].cut_after(bytes);
            }
            Act::HoldReplies => {
                let (proxy, pause) = (self.random.usize(0..3), self.while_it_lasts(500..6000));
                self.proxies[proxy].hold_replies();
                tokio::time::sleep(pause).await;
                self.proxies[proxy].release_replies();
            }
            Act::LockTable => self.lock().await,
            Act::EndSessions => {
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name LIKE 'tablemap%'";
                self.rig.erp().await.batch_execute(sql).await.unwrap();
            }
        }
    }

    async fn lock(&mut self) {
        let (table, pause) = (self.table(), self.while_it_lasts(500..4000));
        let erp = self.rig.erp().await;
        let sql = format!("SET lock_timeout = '5s'; BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        if erp.batch_execute(&sql).await.is_ok() {
            tokio::time::sleep(pause).await;
        }
        // The transaction ends with its connection.
    }

    async fn judge(&mut self) {
        for map in TABLES {
            self.rig.resume(map);
        }
        for map in TABLES {
            wait_until(REST, &format!("{map} is caught up"), async || {
                let status = self.rig.status(map).await;
                status["phase"] == "Running"
            })
            .await;
            self.rig.equal(map, "id").await;
        }
        let (crm, erp) = (self.rig.crm().await, self.rig.erp().await);
        println!("{:?}", compare_databases(&crm, &erp, TABLES).await.unwrap());
        for map in TABLES {
            let status = self.rig.settled(map).await;
            assert_eq!(status["errors"]["count"], 0, "{status:#}");
        }
        assert!(!self.worker.log().contains("left out of the stream"));
        let peak = self.peak.max(self.worker.peak_memory());
        println!("at most {} MiB of memory", peak >> 10);
        assert!(peak < MEMORY, "{peak} KiB of memory");
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_while_of_random_faults_loses_nothing() {
    let _time = timed("a_while_of_random_faults_loses_nothing");
    let seed = number("TABLEMAP_SEED", fastrand::u64(..1 << 32));
    let length = Duration::from_secs(number("TABLEMAP_SOAK_SECONDS", 60));
    println!("TABLEMAP_SEED={seed} for {length:?}");
    let mut soak = Soak::start(seed).await;
    let load = Load::start(&soak.rig, TABLES, RATE);
    let begun = Instant::now();
    while begun.elapsed() < length {
        let act = soak.choose();
        println!("{:.1?} {act:?}", begun.elapsed());
        soak.act(act).await;
        let pause = soak.while_it_lasts(50..1500);
        tokio::time::sleep(pause).await;
        assert!(
            soak.worker.ended().is_none(),
            "the worker has ended\n{}",
            soak.worker.log()
        );
    }
    load.stop().await;
    soak.judge().await;
}
