//! The one connection of a process that writes `logs.db`.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use super::errors::export_error;
use super::schema;
use crate::clock::Time;
use crate::telemetry::exporter::ExportError;
use crate::telemetry::row::Row;

/// How long a statement waits for a lock that another process holds; then the export is a Retry.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// Page cache, KiB (a negative number means KiB to SQLite).
const CACHE_KIB: &str = "-4096";
/// The write-ahead log is folded into the file at this length, pages of 4 KiB.
const CHECKPOINT_PAGES: &str = "4000";
/// The write-ahead log is cut to this length when it has been folded in, bytes.
const WAL_BYTES_KEPT: &str = "33554432";
/// Rows of one prepared statement, largest first. A longer one takes more memory and gains little.
const STATEMENT_ROWS: [usize; 3] = [64, 8, 1];
const COLUMNS: &str = "timestamp, id, ingested_at, source_type, source_id, log_level, message, task_id, \
                       worker_id, cycle_number, trace_id, span_id, metadata";
const COLUMN_COUNT: usize = 13;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Rows that are there, those included that were there before.
    pub received: u64,
    /// Rows that were not there before.
    pub inserted: u64,
}

/// Writes rows into `logs.db`. Cheap to clone; all clones share one connection, and it may be
/// used from any runtime.
#[derive(Debug, Clone)]
pub struct RowWriter {
    path: Arc<Path>,
    open: Arc<Mutex<Option<Open>>>,
    #[cfg(test)]
    pub(super) pages_max: Option<u32>,
}

#[derive(Debug)]
struct Open {
    connection: SqliteConnection,
    file: FileId,
}

/// Device and inode: a file that was moved away keeps its own.
type FileId = (u64, u64);

impl RowWriter {
    /// A writer into the file at `path`; nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>) -> RowWriter {
        RowWriter {
            path: Arc::from(path.into()),
            open: Arc::default(),
            #[cfg(test)]
            pages_max: None,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file, or brings it to this program's schema.
    ///
    /// # Errors
    /// As [`RowWriter::insert`].
    pub async fn migrate(&self) -> Result<(), ExportError> {
        self.take().await?.give_back(Ok(()))
    }

    /// Writes all rows or none, durably; rows that are there already are left as they are.
    /// Dropping the future is safe at any moment.
    ///
    /// # Errors
    /// Retry: locked, full. Blocked: not ours, not writable, damaged. Refused: a row that the table
    /// does not take.
    pub async fn insert(&self, rows: &[Row], now: Time) -> Result<Inserted, ExportError> {
        if rows.is_empty() {
            return Ok(Inserted::default());
        }
        let mut taken = self.take().await?;
        let inserted = insert_all(taken.connection(), rows, now.as_microsecond()).await;
        Ok(Inserted { received: rows.len() as u64, inserted: taken.give_back(inserted)? })
    }

    /// The connection, for one piece of work.
    pub(super) async fn take(&self) -> Result<Taken<'_>, ExportError> {
        let mut slot = self.open.lock().await;
        let open = match slot.take() {
            Some(open) if file_id(&self.path) == Some(open.file) => open,
            _ => self.open().await?,
        };
        Ok(Taken { slot, open, path: &self.path })
    }

    async fn open(&self) -> Result<Open, ExportError> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| ExportError::Blocked {
                detail: format!("{} cannot be made: {error}", folder.display()),
                remedy: "make the folder writable for this user".to_owned(),
            })?;
        }
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .busy_timeout(BUSY_TIMEOUT)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", CACHE_KIB)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .pragma("journal_size_limit", WAL_BYTES_KEPT)
            .disable_statement_logging();
        #[cfg(test)]
        let options = match self.pages_max {
            Some(pages) => options.pragma("max_page_count", pages.to_string()),
            None => options,
        };
        let mut connection = options.connect().await.map_err(|error| export_error(&self.path, &error))?;
        schema::migrate(&mut connection, &self.path).await?;
        match file_id(&self.path) {
            Some(file) => Ok(Open { connection, file }),
            None => {
                let path = self.path.display();
                Err(ExportError::retry(format!("{path} was taken away while it was opened")))
            }
        }
    }
}

/// The connection in use. Dropped without [`Taken::give_back`] (an error, an abandoned future) it
/// is closed, which rolls its transaction back; the next call opens another.
pub(super) struct Taken<'a> {
    slot: MutexGuard<'a, Option<Open>>,
    open: Open,
    path: &'a Path,
}

impl Taken<'_> {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.open.connection
    }

    /// Keeps the connection for the next call where the work succeeded.
    pub(super) fn give_back<T>(mut self, done: Result<T, sqlx::Error>) -> Result<T, ExportError> {
        match done {
            Ok(value) => {
                *self.slot = Some(self.open);
                Ok(value)
            }
            Err(error) => Err(export_error(self.path, &error)),
        }
    }
}

fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

async fn insert_all(connection: &mut SqliteConnection, rows: &[Row], ingested_at: i64) -> Result<u64, sqlx::Error> {
    let mut transaction = connection.begin_with("begin immediate").await?;
    let (mut rest, mut inserted) = (rows, 0);
    for (size, statement) in STATEMENT_ROWS.into_iter().zip(STATEMENTS.iter()) {
        while let Some((some, others)) = rest.split_at_checked(size) {
            inserted += insert_some(&mut transaction, statement, some, ingested_at).await?;
            rest = others;
        }
    }
    transaction.commit().await?;
    Ok(inserted)
}

/// One statement for each of `STATEMENT_ROWS`.
static STATEMENTS: LazyLock<[Arc<str>; STATEMENT_ROWS.len()]> = LazyLock::new(|| {
    STATEMENT_ROWS.map(|rows| {
        let row = format!("({})", vec!["?"; COLUMN_COUNT].join(", "));
        let values = vec![row; rows].join(", ");
        Arc::from(format!("insert into system_logs ({COLUMNS}) values {values} on conflict do nothing"))
    })
});

async fn insert_some(
    connection: &mut SqliteConnection,
    statement: &Arc<str>,
    rows: &[Row],
    ingested_at: i64,
) -> Result<u64, sqlx::Error> {
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(statement)));
    for row in rows {
        query = query
            .bind(row.timestamp)
            .bind(row.id.hyphenated().to_string())
            .bind(ingested_at)
            .bind(&row.source_type)
            .bind(&row.source_id)
            .bind(row.log_level.word())
            .bind(&row.message)
            .bind(row.task_id.map(|id| id.hyphenated().to_string()))
            .bind(row.worker_id.as_deref())
            .bind(row.cycle_number)
            .bind(row.trace_id.as_deref())
            .bind(row.span_id.as_deref())
            .bind(row.metadata.to_string());
    }
    Ok(query.execute(connection).await?.rows_affected())
}
