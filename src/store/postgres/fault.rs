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

/// What an error of the database is for the caller.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// The values do not fit their row.
    Row,
    /// A table or function is missing, or there is no right to it.
    Schema,
    /// Everything else: the database's, for now.
    Away,
}

/// By SQLSTATE: class 22 and 23 are about values; what is undefined or forbidden is about the schema.
fn kind(code: &str) -> Kind {
    match code {
        "42P01" | "42883" | "3F000" | "42703" | "42501" => Kind::Schema,
        code if code.starts_with("22") || code.starts_with("23") => Kind::Row,
        _ => Kind::Away,
    }
}

/// Whether an error is of the database and not of what it was asked: it would meet whoever asks next.
pub(super) fn is_everybodys(error: &sqlx::Error) -> bool {
    match error {
        // Resources, an operator's hand, the system: a statement that took too long is among them.
        sqlx::Error::Database(database) => {
            ["08", "53", "57", "58"].iter().any(|class| database.code().is_some_and(|code| code.starts_with(class)))
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => false,
        _ => true,
    }
}

/// A value that does not fit its row is that row's fault; all else is the database's, for now.
pub(super) fn from_sqlx(error: sqlx::Error, doing: &'static str) -> StoreError {
    let found = match &error {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => Kind::Row,
        sqlx::Error::Database(database) => kind(&database.code().unwrap_or_default()),
        _ => Kind::Away,
    };
    match found {
        Kind::Row => StoreError::BadRow { what: doing.to_owned(), detail: error.to_string() },
        Kind::Schema => StoreError::Schema { detail: format!("{error} ({doing})") },
        Kind::Away => StoreError::Unavailable { doing, source: Box::new(error) },
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_says_what_a_caller_does() {
        let kinds = ["23514", "22P05", "42P01", "40001", "55P03", "57014", "57P01", "53300", "08006"].map(kind);
        use Kind::{Away, Row, Schema};
        assert_eq!(kinds, [Row, Row, Schema, Away, Away, Away, Away, Away, Away]);
    }
}
