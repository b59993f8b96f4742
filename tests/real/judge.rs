//! The end of a test under load.

use crate::support::{audit::compare_databases, load::Load, rig::Rig};

/// Everything arrived, in order and with the same end; the books balance. A map has its table's name.
pub async fn judge(rig: &Rig, load: Load, tables: &[&str]) {
    load.stop().await;
    for map in tables {
        rig.resume(map);
    }
    for map in tables {
        rig.condition(map, "CaughtUp", "True").await;
    }
    for table in tables {
        rig.equal(table, "id").await;
    }
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    let summary = compare_databases(&crm, &erp, tables).await;
    println!("{:?}", summary.unwrap());
    for map in tables {
        rig.settled(map).await;
    }
}
