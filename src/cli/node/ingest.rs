//! `dw_ingest_logs`: rows of workers go straight to where the fleet's log rows are, and the answer is
//! given after the commit.

use std::time::Duration;

use async_trait::async_trait;

use crate::clock;
use crate::config::Config;
use crate::gateway::{IngestError, LogIngest};
use crate::rpc::Ingested;
use crate::telemetry::exporter::ExportError;
use crate::telemetry::exporter::postgres::PgWriter;
use crate::telemetry::exporter::sqlite::RowWriter;
use crate::telemetry::row::Row;

/// Longest time a worker's call waits for the database; the worker's own recorder tries again.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// The gateway's writer of worker rows.
pub(super) enum Ingest {
    /// Into `logs.db`.
    File(RowWriter),
    /// Into the database of DATABASE_URL.
    Postgres(PgWriter),
}

impl Ingest {
    /// A writer to where the recorder of this process delivers, too.
    pub(super) fn new(config: &Config) -> Ingest {
        match &config.database {
            Some(address) => Ingest::Postgres(PgWriter::new(address.clone())),
            None => Ingest::File(RowWriter::new(config.logs_db())),
        }
    }

    async fn write(&self, rows: &[Row]) -> Result<Ingested, ExportError> {
        match self {
            Ingest::File(writer) => {
                let done = writer.insert(rows, clock::now()).await?;
                Ok(Ingested { received: done.received, inserted: done.inserted })
            }
            Ingest::Postgres(writer) => {
                let late = || ExportError::retry(format!("no answer within {} s", WRITE_LIMIT.as_secs()));
                let insert = tokio::time::timeout(WRITE_LIMIT, writer.insert(rows, WRITE_LIMIT));
                let done = insert.await.map_err(|_| late())??;
                Ok(Ingested { received: done.received, inserted: done.inserted })
            }
        }
    }
}

#[async_trait]
impl LogIngest for Ingest {
    async fn ingest(&self, rows: Vec<Row>) -> Result<Ingested, IngestError> {
        self.write(&rows).await.map_err(|error| IngestError::Unavailable(Box::new(error)))
    }
}
