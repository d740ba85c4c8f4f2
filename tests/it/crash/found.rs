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
    let query = "select json_extract(metadata, '$.number') from system_logs where message = 'numbered'";
    let numbers: Vec<i64> =
        ask(folder, |mut logs| async move { sqlx::query_scalar(query).fetch_all(&mut logs).await.unwrap() });
    numbers.into_iter().map(i64::cast_unsigned).collect()
}

/// A span in `logs.db`.
#[derive(Debug)]
pub(super) struct SpanRow {
    /// Its name.
    pub(super) message: String,
    pub(super) span_id: String,
    pub(super) is_interrupted: bool,
    /// For those that closed by themselves.
    pub(super) number: Option<i64>,
}

/// The spans in `logs.db`.
pub(super) fn spans(folder: &Path) -> Vec<SpanRow> {
    let query = "select message, span_id, log_level = 'WARNING' as is_interrupted, \
                 cast(json_extract(metadata, '$.attributes.number') as integer) as number \
                 from system_logs where json_extract(metadata, '$.kind') = 'span'";
    let rows: Vec<(String, String, bool, Option<i64>)> =
        ask(folder, |mut logs| async move { sqlx::query_as(query).fetch_all(&mut logs).await.unwrap() });
    let span = |(message, span_id, is_interrupted, number)| SpanRow { message, span_id, is_interrupted, number };
    rows.into_iter().map(span).collect()
}

fn ask<T, F: Future<Output = T>>(folder: &Path, question: impl FnOnce(SqliteConnection) -> F) -> T {
    let url = format!("sqlite://{}", folder.join("logs.db").display());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { question(SqliteConnection::connect(&url).await.unwrap()).await })
}

/// The numbers in the file of the other programs; a torn last line is none.
pub(super) fn in_file(folder: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join(child::FILE)).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| line["fields"]["number"].as_u64()).collect()
}
