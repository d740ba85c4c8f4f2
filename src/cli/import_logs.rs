//! The records of an imported file, as rows of `system_logs`.
//!
//! A row's id is made of the file's digest and the record's place, so that a file that is loaded twice
//! gives each row once.

use std::time::Duration;

use sha2::Digest as _;
use uuid::Uuid;

use crate::clock;
use crate::config::Config;
use crate::error::Unavailable;
use crate::store::Import;
use crate::telemetry::exporter::ExportError;
use crate::telemetry::exporter::postgres::PgWriter;
use crate::telemetry::exporter::sqlite::RowWriter;
use crate::telemetry::record::Level;
use crate::telemetry::row::Row;

/// Rows of one transaction.
const BATCH_ROWS: usize = 1_000;
/// Longest time for one of them.
const BATCH_LIMIT: Duration = Duration::from_secs(30);

/// Writes them; those that are there already are left as they are.
pub(super) async fn write(config: &Config, import: &Import) -> anyhow::Result<()> {
    let rows: Vec<Row> = import
        .snapshot
        .records
        .iter()
        .enumerate()
        .map(|(index, record)| Row {
            id: id(&import.digest, index),
            timestamp: record.timestamp.as_microsecond(),
            source_type: record.source_type.clone(),
            source_id: record.source_id.clone().unwrap_or_default(),
            log_level: Level::Info,
            message: record.message.clone().unwrap_or_default(),
            task_id: None,
            worker_id: None,
            cycle_number: record.cycle,
            trace_id: None,
            span_id: None,
            metadata: serde_json::json!({"imported": import.digest}),
        })
        .collect();
    match &config.database {
        Some(address) => {
            let away = |error: ExportError| Unavailable {
                service: format!("Postgres at {address}"),
                detail: crate::error::chain(&error),
            };
            let writer = PgWriter::new(address.clone());
            for batch in rows.chunks(BATCH_ROWS) {
                writer.insert(batch, BATCH_LIMIT).await.map_err(away)?;
            }
        }
        None => {
            let away = |error: ExportError| Unavailable {
                service: config.logs_db().display().to_string(),
                detail: crate::error::chain(&error),
            };
            let writer = RowWriter::new(config.logs_db());
            for batch in rows.chunks(BATCH_ROWS) {
                writer.insert(batch, clock::now()).await.map_err(away)?;
            }
        }
    }
    Ok(())
}

fn id(digest: &str, index: usize) -> Uuid {
    let hash = sha2::Sha256::digest(format!("{digest} {index}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
