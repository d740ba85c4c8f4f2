//! `dw_ingest_logs` on the data folder: rows of workers go straight to the row writer, and the
//! answer is given after its commit.

use std::path::Path;

use async_trait::async_trait;

use crate::clock;
use crate::gateway::{IngestError, LogIngest};
use crate::rpc::Ingested;
use crate::telemetry::exporter::sqlite::RowWriter;
use crate::telemetry::row::Row;

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
    async fn ingest(&self, rows: Vec<Row>) -> Result<Ingested, IngestError> {
        let inserted = self
            .writer
            .insert(&rows, clock::now())
            .await
            .map_err(|error| IngestError::Unavailable(Box::new(error)))?;
        Ok(Ingested { received: inserted.received, inserted: inserted.inserted })
    }
}
