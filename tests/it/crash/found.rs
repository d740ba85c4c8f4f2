//! What is there after the kill.

use std::path::Path;
use std::time::Duration;

use dogwatch::telemetry;
use dogwatch::telemetry::spool::disk::RealDisk;
use dogwatch::telemetry::spool::{Line, verify};
use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection};
use tracing_subscriber::Registry;

use super::child;

/// Time that the delivery of one run may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Takes over everything in the folder, delivers it, and gives the conservation law's lines.
pub(super) fn deliver(folder: &Path) -> Vec<Line> {
    let (_, guard) = telemetry::start::<Registry>(child::config_with_exporter(folder)).unwrap();
    let end = guard.shutdown(LIMIT);
    assert_eq!((end.pending, end.lost), (0, 0), "{end}");
    verify(&RealDisk, &folder.join("spool")).unwrap()
}

/// The numbers in `logs.db`, each as often as it is there.
pub(super) fn in_database(folder: &Path) -> Vec<u64> {
    let url = format!("sqlite://{}", folder.join("logs.db").display());
    let query = "select json_extract(metadata, '$.number') from system_logs where message = 'numbered'";
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let numbers: Vec<i64> = runtime.block_on(async {
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        sqlx::query_scalar(query).fetch_all(&mut connection).await.unwrap()
    });
    numbers.into_iter().map(i64::cast_unsigned).collect()
}

/// The numbers in the file of the other programs; a torn last line is none.
pub(super) fn in_file(folder: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join(child::FILE)).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| line["fields"]["number"].as_u64()).collect()
}
