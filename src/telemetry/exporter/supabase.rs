//! Rows into a Supabase project's `system_logs`, through its Data API ([`DataApi`]).
//!
//! A batch becomes calls of `POST {url}/rest/v1/rpc/dw_insert_logs` with at most 1,000 rows and
//! 1 MiB each; all of them are taken or the batch is not delivered. The function inserts with
//! `on conflict do nothing` and says how many rows it received and how many were not there before,
//! so that a call which is made again gives each row once. A receipt is the function's own answer
//! and nothing else. What an answer means is decided by the SQLSTATE in PostgREST's error body, and
//! by the status where there is none ([`answer`]).
//!
//! The key goes into headers and nowhere else: not into errors, not into `Debug` (I17). The table
//! and the function are made by `dogwatch migrate`, never here.

mod answer;
mod api;
pub mod config;
mod row;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

pub use self::api::DataApi;
pub use self::config::{SupabaseConfig, SupabaseConfigError};
use super::web::{self, Call};
use super::{ExportError, Exported, Exporter, Timed, rows_of};
use crate::clock::Time;
use crate::rpc::Ingested;
use crate::telemetry::record::Stored;
use crate::telemetry::row::Row;

/// The function that takes rows.
const FUNCTION: &str = "dw_insert_logs";
/// Longest answer that is read, bytes: pages of the edge are longer than the function's.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Puts rows into a project's `system_logs`. Cheap to clone; one connection pool for all clones.
#[derive(Clone)]
pub struct RowPoster(DataApi);

impl RowPoster {
    /// A poster to the project of `config`; nothing is connected yet.
    pub fn new(config: SupabaseConfig) -> RowPoster {
        RowPoster(DataApi::new(config))
    }

    /// Puts all rows there, in calls of a bounded size; how many were not there before. Rows that
    /// are there already are left as they are, so that the whole may be repeated after an error.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub async fn insert(&self, rows: &[Row], now: Time) -> Result<Ingested, ExportError> {
        let calls = web::calls(vec![b'{'], rows.iter().map(row::to_insert))?;
        let mut sum = Ingested { received: 0, inserted: 0 };
        for call in calls {
            let taken = self.call(call, now).await?;
            sum = Ingested { received: sum.received + taken.received, inserted: sum.inserted + taken.inserted };
        }
        Ok(sum)
    }

    async fn call(&self, call: Call, now: Time) -> Result<Ingested, ExportError> {
        self.0.call(FUNCTION, call.body, ANSWER_BYTES_MAX).await?.check(call.rows, now)
    }
}

/// The exporter `supabase`.
pub struct SupabaseExporter {
    // Dropped before the runtime that drives its connections.
    poster: RowPoster,
    runtime: Timed,
}

impl SupabaseExporter {
    /// An exporter to the project of `config`; nothing is connected yet.
    ///
    /// # Errors
    /// The operating system gives no runtime.
    pub fn new(config: SupabaseConfig) -> io::Result<SupabaseExporter> {
        Ok(SupabaseExporter { poster: RowPoster::new(config), runtime: Timed::new()? })
    }
}

impl Exporter for SupabaseExporter {
    fn name(&self) -> &'static str {
        "supabase"
    }

    fn export(&mut self, batch: &[Stored], now: Time, deadline: Duration) -> Result<Exported, ExportError> {
        let rows = rows_of(batch)?;
        let taken = self.runtime.run(deadline, self.poster.insert(&rows, now))?;
        Ok(Exported { delivered: taken.received, rejected: 0 })
    }
}
