//! Each action on parked records, by each selection, in each phase of a map.

use crate::{
    scene::{ITEMS, ON_ITEMS, REFUSES, Scene},
    support::{operations::counts, timing::timed},
};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Direct,
    Paused,
    CatchingUp,
    /// The destination is away.
    Buffering,
}

const PHASES: [Phase; 4] = [Phase::Direct, Phase::Paused, Phase::CatchingUp, Phase::Buffering];
const ACTIONS: [&str; 2] = ["Retry", "Discard"];
/// Of the four records of a round, the first three by themselves; the last one is all that is left.
const SELECTIONS: [&str; 4] = ["IDs", "Keys", "Match", "All"];

/// One action in one phase, on four records that were refused before.
struct Round {
    phase: Phase,
    action: &'static str,
    /// Of the first record.
    first: u64,
}

impl Round {
    fn writes(&self) -> bool {
        self.action == "Retry"
    }

    fn name(&self, selection: &str) -> String {
        format!("{:?}-{}-{selection}", self.phase, self.action).to_lowercase()
    }

    async fn refuse(&self, scene: &Scene) {
        let Self { first, .. } = self;
        let refuse = format!("INSERT INTO refused VALUES ('bad {first}')");
        scene.erp.batch_execute(&refuse).await.unwrap();
        let insert = format!(
            "INSERT INTO items SELECT n, '', 'bad {first}' FROM generate_series({first}, {}) n",
            first + 3
        );
        scene.at_source(&insert).await;
        scene.errors("items", 4).await;
        scene.erp.batch_execute("DELETE FROM refused").await.unwrap();
    }

    async fn enter(&self, scene: &mut Scene) {
        match self.phase {
            Phase::Direct => {}
            Phase::Paused => scene.pause().await,
            Phase::CatchingUp => {
                scene.pause().await;
                let more = format!(
                    "INSERT INTO items SELECT n, '', 'good' FROM generate_series({0}, {0} + 2999) n",
                    self.first * 100_000
                );
                scene.at_source(&more).await;
                scene.queued("items", 3000).await;
                let patch = r#"{"spec":{"state":"Running","catchUp":{"maxRecordsPerSecond":500}}}"#;
                scene
                    .rig
                    .api
                    .kubectl(&["patch", "tablemap", "items", "--type=merge", "-p", patch]);
                scene.rig.phase("items", "CatchingUp").await;
            }
            Phase::Buffering => {
                scene.rig.destination.stop().await;
                let sql = format!("INSERT INTO items VALUES ({}, '', 'good')", self.first * 100_000);
                scene.at_source(&sql).await;
                scene.rig.phase("items", "Buffering").await;
            }
        }
    }

    async fn leave(&self, scene: &mut Scene) {
        if self.phase == Phase::Buffering {
            scene.rig.destination.start_again().await;
            scene.erp = scene.rig.erp().await;
        }
        scene.rig.resume("items");
        scene.rig.condition("items", "CaughtUp", "True").await;
    }

    /// Asks for all four, and waits for those that need not wait.
    async fn ask(&self, scene: &Scene, ids: &[String]) {
        for selection in SELECTIONS {
            let chosen = match selection {
                "IDs" => format!("{{type: IDs, ids: [{}]}}", ids[0]),
                "Keys" => format!("{{type: Keys, keys: [{{values: ['{}']}}]}}", self.first + 1),
                "Match" => {
                    let key = self.first + 2;
                    format!(
                        "{{type: Match, match: {{expression: \"row.id == {key} && error.code == 'P0001'\"}}}}"
                    )
                }
                _ => "{type: All}".into(),
            };
            let name = self.name(selection);
            scene.rig.ask_errors(&name, "items", self.action, &chosen);
            let waits = match self.phase {
                Phase::Paused => Some("MapPaused"),
                Phase::Buffering => Some("MapBuffering"),
                Phase::Direct | Phase::CatchingUp => None,
            };
            match waits.filter(|_| self.writes()) {
                // The others come behind it, in their order.
                Some(reason) if selection == "IDs" => drop(scene.rig.waits(&name, reason).await),
                Some(_) => {}
                None => self.has_ended(&scene.rig.ended(&name).await),
            }
        }
    }

    fn has_ended(&self, status: &Value) {
        let what = format!("{:?} {}", self.phase, self.action);
        assert_eq!(counts(status), [1, 1, 0, 0, 0], "{what}: {status:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_by_each_selection_in_each_phase() {
    let _time = timed("each_action_by_each_selection_in_each_phase");
    let refuses = format!("{REFUSES}{ON_ITEMS}");
    let mut scene = Scene::start(ITEMS, &refuses, &[&["items", "id", "kind", "note"]], &[]).await;
    let mut discarded = 0;
    for (number, phase) in PHASES.into_iter().enumerate() {
        for (more, action) in ACTIONS.into_iter().enumerate() {
            let first = 10 * (2 * number + more + 1) as u64;
            let round = Round { phase, action, first };
            round.refuse(&scene).await;
            let ids = scene.recent("items", 4).await;
            round.enter(&mut scene).await;
            round.ask(&scene, &ids).await;
            round.leave(&mut scene).await;
            for selection in SELECTIONS {
                round.has_ended(&scene.rig.ended(&round.name(selection)).await);
            }
            let expected = if round.writes() { "4" } else { "0" };
            let count = format!("SELECT count(*)::text FROM items WHERE id BETWEEN {first} AND {first} + 3");
            scene.says(&count, expected).await;
            discarded += u64::from(!round.writes()) * 4;
            scene.books("items", 0, discarded).await;
        }
    }
}
