//! Shows maps in full, once or again and again.

use super::{
    Ended,
    args::{Output, Status},
    cluster::Cluster,
    pending,
    print::{self, Paint},
    screen::screen,
};
use crate::api::TableMap;
use jiff::Timestamp;
use serde_json::json;
use std::{io::IsTerminal as _, time::Duration};

const AGAIN: Duration = Duration::from_secs(1);

/// # Errors
/// A map is not there, or cannot be read.
pub async fn status(cluster: &Cluster, wanted: &Status, output: Output) -> Result<(), Ended> {
    if wanted.watch && output != Output::Table {
        return Err(Ended::Usage("--watch shows screens, not json or yaml".into()));
    }
    let maps = wanted.pick.maps(cluster).await?;
    if output != Output::Table {
        return print::objects(maps.iter().map(|map| json!(map)).collect(), output);
    }
    if maps.is_empty() {
        eprintln!("No TableMaps found.");
        return Ok(());
    }
    let mut shown = screens(cluster, &maps).await;
    print::write(&shown);
    if !wanted.watch {
        return Ok(());
    }
    loop {
        tokio::time::sleep(AGAIN).await;
        let now = screens(cluster, &wanted.pick.maps(cluster).await?).await;
        if now != shown {
            shown = now;
            let clear = if std::io::stdout().is_terminal() {
                "\u{1b}[2J\u{1b}[H"
            } else {
                "\n"
            };
            print::write(&format!("{clear}{shown}"));
        }
    }
}

async fn screens(cluster: &Cluster, maps: &[TableMap]) -> String {
    // Whoever may not see operations sees the rest.
    let operations = pending::unfinished(cluster).await;
    let (now, paint) = (Timestamp::now(), Paint::for_output());
    let all: Vec<String> = maps
        .iter()
        .map(|map| screen(map, &operations, now, paint))
        .collect();
    all.join("\n")
}
