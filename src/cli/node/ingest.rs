//! `dw_ingest_logs` on the data folder: rows of workers go straight to the row writer, and the
//! answer is given after its commit.

use std::path::Path;

use async_trait::async_trait;

use crate::clock::{self, Time};
use crate::fleet::ids::WorkerId;
use crate::gateway::{IngestError, LogIngest};
use crate::rpc::{IngestRow, Ingested};
use crate::telemetry::exporter::sqlite::RowWriter;
use crate::telemetry::record::Level;
use crate::telemetry::row::{Row, WORKER};

/// The gateway's writer of worker rows.
pub(super) struct Ingest {
    writer: RowWriter,
}

impl Ingest {
    /// A writer into `logs.db`, which is made where it is absent.
    pub(super) fn new(path: &Path) -> Ingest {
        Ingest { writer: RowWriter::new(path) }
    }
}

#[async_trait]
impl LogIngest for Ingest {
    async fn ingest(&self, worker: &WorkerId, rows: Vec<IngestRow>) -> Result<Ingested, IngestError> {
        let rows: Vec<Row> = rows
            .into_iter()
            .enumerate()
            .map(|(index, row)| to_row(worker, row).ok_or(index))
            .collect::<Result<_, _>>()
            .map_err(|index| IngestError::BadRow {
                index,
                detail: "its time or level is not readable".to_owned(),
            })?;
        let inserted = self
            .writer
            .insert(&rows, clock::now())
            .await
            .map_err(|error| IngestError::Unavailable(Box::new(error)))?;
        Ok(Ingested { received: inserted.received, inserted: inserted.inserted })
    }
}

/// The row, under the name of the worker whose token was shown.
fn to_row(worker: &WorkerId, row: IngestRow) -> Option<Row> {
    let mut metadata = match row.attributes {
        serde_json::Value::Object(pairs) => pairs,
        serde_json::Value::Null => serde_json::Map::new(),
        other => serde_json::Map::from_iter([("attributes".to_owned(), other)]),
    };
    let cycle = metadata.remove("cycle").and_then(|cycle| cycle.as_i64());
    Some(Row {
        id: row.id,
        timestamp: row.timestamp.parse::<Time>().ok()?.as_microsecond(),
        source_type: WORKER.to_owned(),
        source_id: worker.0.clone(),
        log_level: Level::from_word(&row.log_level)?,
        message: row.message,
        task_id: row.task_id,
        worker_id: Some(worker.0.clone()),
        cycle_number: cycle,
        trace_id: row.trace_id,
        span_id: row.span_id,
        metadata: metadata.into(),
    })
}
