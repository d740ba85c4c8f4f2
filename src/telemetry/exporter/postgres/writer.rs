//! The connection that writes rows.
//!
//! A batch is one transaction. Rows that may be there already, after a start or a failure, are written
//! by INSERT with `on conflict do nothing`, which leaves them as they are ([`insert`]). That costs the
//! database a third of its speed, so that as long as every row so far was one that was not there before,
//! rows are written by COPY ([`copy`]). One that is there after all then fails its transaction, which is
//! made once more with INSERT. Either way rows are made while the database works on those before them.
//!
//! COPY can less than INSERT: not with row level security for this role (the table's owner and who has
//! `bypassrls` are free of it), not into a view, not where a column's type was changed. So COPY has no
//! say in whether rows are taken: whatever it does not take for another reason than an outage is tried
//! with INSERT, whose answer counts. Where INSERT then takes it, the connection stays with INSERT.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::Mutex;

use super::columns::{Batch, Rows, insert_of};
use super::connect::{self, Address, Notices};
use super::copy::{COPY, Encoder};
use super::errors::{export_error, is_there_already, is_without_partition};
use crate::telemetry::exporter::ExportError;

/// Longest wait for a lock, such as a migration's or another's table lock; then it is a Retry.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// A statement ends this long before the export that waits for it.
const MARGIN: Duration = Duration::from_millis(500);
/// Rows of the first INSERT of a batch: while they are made, the database has nothing to do.
const FIRST_ROWS_MAX: usize = 1_250;
/// Rows of each further one.
const STATEMENT_ROWS_MAX: usize = 5_000;
/// A COPY is sent in pieces that are at least so large, but for the last.
const PIECE_BYTES: usize = 32 << 10;

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
    /// How rows that are expected to be new are written.
    way: Way,
}

/// How rows are written that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Copy,
    /// Because this table does not take the other from us.
    Insert,
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
        // After a failure the connection is another one, which begins with an INSERT.
        let inserted = match self.write(batch, limit, Way::Copy).await {
            Err(Fault::Database(error) | Fault::Copy(error)) if is_without_partition(&error) => {
                self.maintain(limit).await?;
                self.write(batch, limit, Way::Copy).await
            }
            Err(Fault::Database(error) | Fault::Copy(error)) if is_there_already(&error) => {
                self.write(batch, limit, Way::Copy).await
            }
            Err(Fault::Copy(error))
                if !matches!(export_error(&self.address, &error), ExportError::Retry { .. }) =>
            {
                self.write(batch, limit, Way::Insert).await
            }
            other => other,
        };
        let inserted = inserted.map_err(|fault| fault.told(&self.address))?;
        Ok(Inserted { received: batch.rows() as u64, inserted })
    }

    /// Writes the batch; the way is a new connection's, for as long as it lasts.
    async fn write<B: Batch + ?Sized>(&self, batch: &B, limit: Duration, way: Way) -> Result<u64, Fault> {
        let write = async |connected: &mut Connected| {
            let inserted = match (connected.expects, connected.way) {
                (Rows::New, Way::Copy) => copy(&mut connected.connection, batch).await?,
                (expects, _) => insert(&mut connected.connection, batch, expects).await?,
            };
            let all_new = inserted == batch.rows() as u64;
            connected.expects = if all_new { Rows::New } else { Rows::MayBeThere };
            Ok(inserted)
        };
        self.work(limit, way, write).await
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
        self.work(limit, Way::Copy, ask).await.map_err(|fault| fault.told(&self.address))
    }

    /// One transaction. Without a success, also where this is dropped half way, the connection is
    /// closed, which takes everything back; the next call makes another.
    async fn work<T>(
        &self,
        limit: Duration,
        way: Way,
        work: impl AsyncFnOnce(&mut Connected) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut slot = self.connection.lock().await;
        let mut connected = match slot.take() {
            Some(connected) => connected,
            None => Connected { connection: self.address.connect().await?, expects: Rows::MayBeThere, way },
        };
        let statement_limit = limit.saturating_sub(MARGIN);
        let lock_limit = LOCK_LIMIT.min(statement_limit);
        connect::begin(&mut connected.connection, statement_limit, lock_limit, Notices::Unread).await?;
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
    /// The database again, by COPY.
    Copy(sqlx::Error),
    /// The batch itself.
    Batch(ExportError),
}

impl Fault {
    fn told(self, address: &Address) -> ExportError {
        match self {
            Fault::Database(error) | Fault::Copy(error) => export_error(address, &error),
            Fault::Batch(error) => error,
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Fault {
        Fault::Database(error)
    }
}

/// Writes a batch of which no row is there already; how many rows it has put in. What was sent lies in
/// the wire's buffers until the database is ready for it, so that the next piece is made meanwhile.
async fn copy<B: Batch + ?Sized>(connection: &mut PgConnection, batch: &B) -> Result<u64, Fault> {
    let mut copy = connection.copy_in_raw(COPY).await.map_err(Fault::Copy)?;
    let mut encoder = Encoder::new();
    for index in 0..batch.rows() {
        let row = batch.row(index).map_err(Fault::Batch)?;
        encoder.push(&row);
        if encoder.bytes().len() >= PIECE_BYTES {
            copy.send(encoder.bytes()).await.map_err(Fault::Copy)?;
            encoder.clear();
        }
    }
    encoder.end();
    copy.send(encoder.bytes()).await.map_err(Fault::Copy)?;
    copy.finish().await.map_err(Fault::Copy)
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
