//! The connection that writes rows.
//!
//! A batch is one transaction of statements of at most [`STATEMENT_ROWS_MAX`] rows. While the database
//! works on one, the rows of the next are made ([`insert_of`]): neither waits for the other. A row that
//! is there already is left as it is by `on conflict do nothing`; that costs the database a third of
//! its speed, so that it is left out as long as every row so far was one that was not there before. A
//! row that is there after all then fails its transaction, which is made once more with it.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::Mutex;

use super::columns::{Batch, Rows, insert_of};
use super::connect::{self, Address};
use super::errors::{export_error, is_there_already, is_without_partition};
use crate::telemetry::exporter::ExportError;

/// Longest wait for a lock, such as a migration's or another's table lock; then it is a Retry.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// A statement ends this long before the export that waits for it.
const MARGIN: Duration = Duration::from_millis(500);
/// Rows of the first statement of a batch: while they are made, the database has nothing to do.
const FIRST_ROWS_MAX: usize = 1_250;
/// Rows of each further one.
const STATEMENT_ROWS_MAX: usize = 5_000;

const MAINTAIN: &str = "select public.dw_maintain_system_logs()::text";

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Rows that are there, those included that were there before.
    pub received: u64,
    /// Rows that were not there before.
    pub inserted: u64,
}

/// Writes rows into `system_logs`. Cheap to clone; all clones share one connection, which belongs
/// to the runtime that first used it.
#[derive(Debug, Clone)]
pub struct PgWriter {
    address: Address,
    connection: Arc<Mutex<Option<Connected>>>,
}

/// The connection, and what it has seen.
#[derive(Debug)]
struct Connected {
    connection: PgConnection,
    /// What the next rows are expected to be.
    expects: Rows,
}

impl PgWriter {
    /// A writer to `address`; nothing is connected yet.
    pub fn new(address: Address) -> PgWriter {
        PgWriter { address, connection: Arc::default() }
    }

    /// Writes all rows or none; rows that are there already are left as they are. The database
    /// gives up shortly before `limit`. Dropping the future is safe at any moment.
    ///
    /// # Errors
    /// Retry: it does not answer, is locked or full. Blocked: rights, a missing table, read-only.
    /// Refused: a row that the table does not take, a record that is none.
    pub async fn insert<B: Batch + ?Sized>(&self, batch: &B, limit: Duration) -> Result<Inserted, ExportError> {
        if batch.rows() == 0 {
            return Ok(Inserted::default());
        }
        let write = || {
            self.work(limit, async |connected: &mut Connected| {
                let inserted = insert(&mut connected.connection, batch, connected.expects).await?;
                let all_new = inserted == batch.rows() as u64;
                connected.expects = if all_new { Rows::New } else { Rows::MayBeThere };
                Ok(inserted)
            })
        };
        let inserted = match write().await {
            Err(Fault::Database(error)) if is_without_partition(&error) => {
                self.maintain(limit).await?;
                write().await
            }
            // The connection is another one now, and expects nothing.
            Err(Fault::Database(error)) if is_there_already(&error) => write().await,
            other => other,
        };
        let inserted = inserted.map_err(|fault| fault.told(&self.address))?;
        Ok(Inserted { received: batch.rows() as u64, inserted })
    }

    /// The housekeeping: what it says it has done, JSON.
    ///
    /// # Errors
    /// As [`PgWriter::insert`].
    pub async fn maintain(&self, limit: Duration) -> Result<String, ExportError> {
        let ask = async |connected: &mut Connected| {
            let asked = sqlx::query_scalar(MAINTAIN).persistent(false);
            Ok::<String, Fault>(asked.fetch_one(&mut connected.connection).await?)
        };
        self.work(limit, ask).await.map_err(|fault| fault.told(&self.address))
    }

    /// One transaction. Without a success, also where this is dropped half way, the connection is
    /// closed, which takes everything back; the next call makes another.
    async fn work<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Connected) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut slot = self.connection.lock().await;
        let mut connected = match slot.take() {
            Some(connected) => connected,
            None => Connected { connection: self.address.connect().await?, expects: Rows::MayBeThere },
        };
        let statement_limit = limit.saturating_sub(MARGIN);
        let lock_limit = LOCK_LIMIT.min(statement_limit);
        connect::begin(&mut connected.connection, statement_limit, lock_limit).await?;
        let done = work(&mut connected).await?;
        sqlx::raw_sql("commit").execute(&mut connected.connection).await?;
        *slot = Some(connected);
        Ok(done)
    }
}

/// Why a transaction was not made.
#[derive(Debug)]
enum Fault {
    Database(sqlx::Error),
    /// The batch itself.
    Batch(ExportError),
}

impl Fault {
    fn told(self, address: &Address) -> ExportError {
        match self {
            Fault::Database(error) => export_error(address, &error),
            Fault::Batch(error) => error,
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Fault {
        Fault::Database(error)
    }
}

/// Writes the batch statement by statement; how many rows were not there before.
async fn insert<B: Batch + ?Sized>(connection: &mut PgConnection, batch: &B, expects: Rows) -> Result<u64, Fault> {
    let (all, mut inserted) = (batch.rows(), 0);
    // Of a small batch each round trip counts for more than what could be made meanwhile.
    let mut until = if all > 2 * FIRST_ROWS_MAX { FIRST_ROWS_MAX } else { all.min(STATEMENT_ROWS_MAX) };
    let mut made = Some(insert_of(batch, 0..until, expects).await.map_err(Fault::Batch)?);
    while let Some(statement) = made {
        let from = until;
        until = all.min(from + STATEMENT_ROWS_MAX);
        let write = async { Ok::<u64, Fault>(statement.execute(&mut *connection).await?.rows_affected()) };
        let make = async {
            if from == until {
                return Ok::<_, Fault>(None);
            }
            insert_of(batch, from..until, expects).await.map(Some).map_err(Fault::Batch)
        };
        let (written, next) = tokio::try_join!(write, make)?;
        inserted += written;
        made = next;
    }
    Ok(inserted)
}
