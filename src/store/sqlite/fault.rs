//! What can go wrong inside a transaction, before it is known who has to hear of it.

use crate::rpc::Refusal;
use crate::store::{RpcError, StoreError};

/// A transaction that is not committed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The driver's error.
    Sql(sqlx::Error),
    /// The store's own.
    Store(StoreError),
    /// A worker's call that is not granted.
    Refused(Refusal),
}

impl Fault {
    /// A row that cannot be used.
    pub(super) fn bad_row(what: impl Into<String>, detail: impl std::fmt::Display) -> Fault {
        Fault::Store(StoreError::BadRow { what: what.into(), detail: detail.to_string() })
    }

    /// For everybody but workers.
    pub(super) fn store(self, doing: &'static str) -> StoreError {
        match self {
            Fault::Sql(error) => from_sqlx(error, doing),
            Fault::Store(error) => error,
            Fault::Refused(refusal) => StoreError::BadRow { what: doing.to_owned(), detail: refusal.to_string() },
        }
    }

    /// For workers.
    pub(super) fn rpc(self, doing: &'static str) -> RpcError {
        match self {
            Fault::Refused(refusal) => RpcError::Refused(refusal),
            fault => RpcError::Store(fault.store(doing)),
        }
    }
}

/// A value that does not fit its row is that row's fault; all else is the database's, for now.
pub(super) fn from_sqlx(error: sqlx::Error, doing: &'static str) -> StoreError {
    let is_row = match &error {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => true,
        sqlx::Error::Database(database) => {
            use sqlx::error::ErrorKind;
            matches!(
                database.kind(),
                ErrorKind::CheckViolation | ErrorKind::NotNullViolation | ErrorKind::UniqueViolation
            )
        }
        _ => false,
    };
    if is_row {
        return StoreError::BadRow { what: doing.to_owned(), detail: error.to_string() };
    }
    StoreError::Unavailable { doing, source: Box::new(error) }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Fault {
        Fault::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        Fault::Store(error)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::Refused(refusal)
    }
}
