//! What tests with a real recorder share: its settings, and the rows that arrived.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::telemetry::record::Source;
use dogwatch::telemetry::{Adopt, Config, Destination};
use sqlx::ConnectOptions as _;

/// A recorder that takes over what it finds and delivers to `logs`; rows keep for a century. The
/// one heartbeat comes at the start.
pub(crate) fn config(spool_dir: PathBuf, logs: &Path, source_id: &str) -> Config {
    let source = Source { source_type: "external".into(), source_id: source_id.into(), resource: Vec::new() };
    Config {
        spool_cap_bytes: 1 << 26,
        sync_every: Duration::from_millis(10),
        heartbeat_every: Duration::from_secs(3_600),
        database: Some(Destination::Sqlite {
            path: logs.to_owned(),
            retention: Duration::from_secs(86_400 * 36_500),
            retention_bytes: 1 << 30,
        }),
        adopt: Adopt::All,
        ..Config::new(spool_dir, source)
    }
}

/// The messages of all rows, in order of their keys.
pub(crate) fn messages(logs: &Path) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(logs).read_only(true);
        let mut connection = options.connect().await.unwrap();
        let query = sqlx::query_scalar("select message from system_logs order by timestamp, id");
        query.fetch_all(&mut connection).await.unwrap()
    })
}

/// Rows whose message begins with `number `, and how many different ones.
pub(crate) fn numbered(logs: &Path) -> (u64, u64) {
    let mut rows = messages(logs);
    rows.retain(|message| message.starts_with("number "));
    let count = rows.len() as u64;
    rows.sort();
    rows.dedup();
    (count, rows.len() as u64)
}
