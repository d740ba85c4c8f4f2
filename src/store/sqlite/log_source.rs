//! Where an embedded fleet's log rows are: its own file, or a Postgres database.

use std::path::Path;

use super::logs;
use crate::fleet::snapshot::Record;
use crate::store::postgres;
use crate::store::{LogQuery, LogRow, Result, SourceNewest};
use crate::telemetry::exporter::postgres::Address;

/// See the module.
#[derive(Debug)]
pub(super) enum LogSource {
    File(logs::Logs),
    Postgres(postgres::logs::Logs),
}

impl LogSource {
    pub(super) fn file(data_dir: &Path) -> LogSource {
        LogSource::File(logs::Logs::new(data_dir))
    }

    pub(super) fn postgres(address: &Address) -> LogSource {
        LogSource::Postgres(postgres::logs::Logs::new(address))
    }

    pub(super) async fn close(&self) {
        match self {
            LogSource::File(logs) => logs.close().await,
            LogSource::Postgres(logs) => logs.close().await,
        }
    }

    pub(super) async fn query(&self, query: &LogQuery) -> Result<Vec<LogRow>> {
        match self {
            LogSource::File(logs) => logs.query(query).await,
            LogSource::Postgres(logs) => logs.query(query).await,
        }
    }

    pub(super) async fn newest(&self) -> Result<Vec<SourceNewest>> {
        match self {
            LogSource::File(logs) => logs.newest().await,
            LogSource::Postgres(logs) => logs.newest().await,
        }
    }

    pub(super) async fn newest_records(&self) -> Vec<Record> {
        match self {
            LogSource::File(logs) => logs.newest_records().await,
            LogSource::Postgres(logs) => logs.newest_records().await,
        }
    }
}
