//! Two reasons not to write a map at the same time: the status names each, and the map goes on when both are over (I6, I7).

use crate::{
    scene::{ITEMS, ON_ITEMS, REFUSES},
    support::{
        process::Process,
        proxy::Proxy,
        rig::{NAMESPACE, Rig, SOON, assert_balanced, said, same_map},
        timing::timed,
        wait::wait_until,
    },
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    State,
    Until,
    Rule,
    Outage,
}

const ALL: [Cause; 4] = [Cause::State, Cause::Until, Cause::Rule, Cause::Outage];

impl Cause {
    /// As `status.pauses` names it.
    fn pause(self) -> Option<&'static str> {
        match self {
            Self::State => Some("spec.state"),
            Self::Until => Some("spec.pauseUntilTime"),
            Self::Rule => Some("refusals"),
            Self::Outage => None,
        }
    }
}

const RULE: &str = "  rules:
  - {name: refusals, match: {classes: [Application]}, threshold: {count: 3}, action: Pause, cooldownSeconds: 0}
";

struct Scene {
    rig: Rig,
    destination: Proxy,
    rows: AtomicU32,
    operations: AtomicU32,
    _operator: Process,
}

impl Scene {
    async fn start() -> Self {
        let mut rig = Rig::start().await;
        rig.both(ITEMS).await;
        let refuses = format!("{REFUSES}{ON_ITEMS}INSERT INTO refused VALUES ('bad%');");
        rig.erp().await.batch_execute(&refuses).await.unwrap();
        let destination = Proxy::start(rig.destination.port);
        rig.connect(rig.source.port, destination.port, rig.redis.port);
        let map = same_map("items", &["id"], &["id", "kind", "note"]).replace("---\n", RULE);
        rig.api.apply(&map);
        let operator = rig.operator(&[]);
        rig.condition("items", "CaughtUp", "True").await;
        Self {
            rig,
            destination,
            rows: AtomicU32::new(0),
            operations: AtomicU32::new(0),
            _operator: operator,
        }
    }

    async fn insert(&self, note: &str, rows: u32) {
        let first = self.rows.fetch_add(rows, Ordering::Relaxed);
        let last = first + rows - 1;
        let sql =
            format!("INSERT INTO items SELECT n, 'k', '{note}' FROM generate_series({first}, {last}) n");
        self.rig.crm().await.batch_execute(&sql).await.unwrap();
    }

    /// As many as make the rule fire, once they are written.
    async fn insert_bad(&self) {
        self.insert("bad", 3).await;
    }

    fn set_until(&self, until: Option<jiff::Timestamp>) {
        let until = until.map(|until| until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let patch = json!({"spec": {"pauseUntilTime": until}});
        self.rig.api.merge(NAMESPACE, "items", &patch);
    }

    async fn begin(&self, cause: Cause) {
        match cause {
            Cause::State => self.rig.pause("items"),
            Cause::Until => self.set_until(Some(
                jiff::Timestamp::now() + std::time::Duration::from_secs(3600),
            )),
            Cause::Rule => self.insert_bad().await,
            Cause::Outage => self.destination.refuse(),
        }
    }

    async fn end(&self, cause: Cause) {
        match cause {
            Cause::State => self.rig.resume("items"),
            Cause::Until => self.set_until(None),
            Cause::Rule => {
                let name = format!("resume-{}", self.operations.fetch_add(1, Ordering::Relaxed));
                self.rig.ask(&name, "items", &["action: Resume"]);
                let ended = self.rig.ended(&name).await;
                assert_eq!(said(&ended, "Complete").unwrap()["status"], "True", "{ended:#}");
            }
            Cause::Outage => self.destination.accept(),
        }
    }

    /// Waits until the status names just these.
    async fn says(&self, causes: &[Cause]) {
        let mut wanted: Vec<&str> = causes.iter().filter_map(|cause| cause.pause()).collect();
        wanted.sort_unstable();
        let is_away = causes.contains(&Cause::Outage);
        wait_until(SOON, &format!("a status that names {causes:?}"), async || {
            let status = self.rig.status("items").await;
            let pauses = status["pauses"].as_array();
            let mut named: Vec<&str> = pauses
                .into_iter()
                .flatten()
                .filter_map(|pause| pause["name"].as_str())
                .collect();
            named.sort_unstable();
            let is =
                |type_: &str, wanted: &str| said(&status, type_).is_some_and(|said| said["status"] == wanted);
            let holds = match (wanted.is_empty(), is_away) {
                (true, false) => is("CaughtUp", "True"),
                (true, true) => status["phase"] == "Buffering",
                (false, false) => is("Paused", "True"),
                // It depends on which came first whether the destination could be fenced.
                (false, true) => ["Paused", "Pausing"]
                    .iter()
                    .any(|phase| status["phase"] == *phase),
            };
            named == wanted && holds && is("DestinationConnected", if is_away { "False" } else { "True" })
        })
        .await;
    }

    /// `first` begins, then `second`; one ends, then the other.
    async fn overlap(&self, first: Cause, second: Cause, is_first_over_first: bool) {
        println!("{first:?}, then {second:?}");
        self.begin(first).await;
        self.says(&[first]).await;
        self.begin(second).await;
        if second == Cause::Rule {
            // Nothing is written that could be refused, until the first is over.
            self.says(&[first]).await;
            self.end(first).await;
            self.says(&[Cause::Rule]).await;
            self.end(Cause::Rule).await;
            return self.says(&[]).await;
        }
        self.says(&[first, second]).await;
        let (over, left) = if is_first_over_first {
            (first, second)
        } else {
            (second, first)
        };
        if (first, second) == (Cause::Rule, Cause::State) {
            // The end of the one is that of the other.
            self.end(Cause::State).await;
        } else {
            self.end(over).await;
            self.says(&[left]).await;
            self.end(left).await;
        }
        self.says(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_reasons_at_a_time_are_both_named_and_both_must_end() {
    let _time = timed("two_reasons_at_a_time_are_both_named_and_both_must_end");
    let scene = Scene::start().await;
    let pairs = ALL.iter().flat_map(|first| ALL.map(|second| (*first, second)));
    for (first, second) in pairs.filter(|(first, second)| first != second) {
        // A rule that comes second is not there before the first is over, and its pause ends with that by state.
        let has_one_order = second == Cause::Rule || (first, second) == (Cause::Rule, Cause::State);
        let orders: &[bool] = if has_one_order { &[true] } else { &[true, false] };
        for is_first_over_first in orders {
            scene.overlap(first, second, *is_first_over_first).await;
            scene.insert("good", 5).await;
        }
    }
    let erp = scene.rig.erp().await;
    erp.batch_execute("DELETE FROM refused").await.unwrap();
    scene.rig.ask_errors("all", "items", "Retry", "{type: All}");
    let ended: Value = scene.rig.ended("all").await;
    assert_eq!(ended["counts"]["failed"], 0, "{ended:#}");
    scene.rig.equal("items", "id").await;
    assert_balanced(&scene.rig.settled("items").await);
}
