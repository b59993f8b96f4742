//! Which server sentinels name.

use super::{ASKED, Settings, open::open};
use crate::queue::QueueError;

/// Asks the sentinels in order which server is the master now (Redis manual, "Guidelines for Redis clients with support
/// for Redis Sentinel"). A sentinel may have another login than the servers: then it is asked without one.
pub(super) async fn find_master(
    settings: &Settings,
    name: &str,
    sentinels: &[(String, u16)],
) -> Result<(String, u16), QueueError> {
    for (host, port) in sentinels {
        for logs_in in [true, false] {
            let asked = tokio::time::timeout(ASKED, ask_sentinel(settings, (host, *port), logs_in, name));
            match asked.await {
                Ok(Ok(Some(master))) => return Ok(master),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    Err(QueueError::Unavailable(format!(
        "no sentinel names a master {name:?}"
    )))
}

async fn ask_sentinel(
    settings: &Settings,
    sentinel: (&str, u16),
    logs_in: bool,
    name: &str,
) -> Result<Option<(String, u16)>, QueueError> {
    let mut connection = open(settings, sentinel, logs_in).await?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    Ok(ask.query_async(&mut connection).await?)
}
