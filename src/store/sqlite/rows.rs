//! Values of a row, read by name; what does not fit names its column.

use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::fault::Fault;
use crate::clock::{self, Time};

/// A row with its table's name for error texts.
pub(super) struct Values<'a>(pub(super) &'static str, pub(super) &'a SqliteRow);

type Read<T> = std::result::Result<T, Fault>;

impl Values<'_> {
    fn bad(&self, column: &str, detail: impl std::fmt::Display) -> Fault {
        Fault::bad_row(format!("a row of {}", self.0), format!("{column}: {detail}"))
    }

    /// Text.
    pub(super) fn text(&self, column: &str) -> Read<String> {
        Ok(self.1.try_get(column)?)
    }

    /// Text or null.
    pub(super) fn text_opt(&self, column: &str) -> Read<Option<String>> {
        Ok(self.1.try_get(column)?)
    }

    /// An integer.
    pub(super) fn int(&self, column: &str) -> Read<i64> {
        Ok(self.1.try_get(column)?)
    }

    /// An integer or null.
    pub(super) fn int_opt(&self, column: &str) -> Read<Option<i64>> {
        Ok(self.1.try_get(column)?)
    }

    /// A count.
    pub(super) fn count(&self, column: &str) -> Read<u64> {
        u64::try_from(self.int(column)?).map_err(|error| self.bad(column, error))
    }

    /// A number or null.
    pub(super) fn number_opt(&self, column: &str) -> Read<Option<f64>> {
        Ok(self.1.try_get(column)?)
    }

    /// Bytes or null.
    pub(super) fn bytes_opt(&self, column: &str) -> Read<Option<Vec<u8>>> {
        Ok(self.1.try_get(column)?)
    }

    /// An instant.
    pub(super) fn time(&self, column: &str) -> Read<Time> {
        Ok(clock::from_micros(self.int(column)?))
    }

    /// An instant or null.
    pub(super) fn time_opt(&self, column: &str) -> Read<Option<Time>> {
        Ok(self.int_opt(column)?.map(clock::from_micros))
    }

    /// A uuid.
    pub(super) fn uuid(&self, column: &str) -> Read<Uuid> {
        self.text(column)?.parse().map_err(|error| self.bad(column, error))
    }

    /// A uuid or null.
    pub(super) fn uuid_opt(&self, column: &str) -> Read<Option<Uuid>> {
        self.text_opt(column)?.map(|text| text.parse().map_err(|error| self.bad(column, error))).transpose()
    }

    /// JSON of a known shape.
    pub(super) fn json<T: DeserializeOwned>(&self, column: &str) -> Read<T> {
        serde_json::from_str(&self.text(column)?).map_err(|error| self.bad(column, error))
    }

    /// JSON of a known shape, or null.
    pub(super) fn json_opt<T: DeserializeOwned>(&self, column: &str) -> Read<Option<T>> {
        let text = self.text_opt(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| self.bad(column, error))).transpose()
    }

    /// A word of a known list.
    pub(super) fn word<T>(&self, column: &str, from: fn(&str) -> Option<T>) -> Read<T> {
        let text = self.text(column)?;
        from(&text).ok_or_else(|| self.bad(column, format!("unknown word {text:?}")))
    }

    /// A word of a known list, or null.
    pub(super) fn word_opt<T>(&self, column: &str, from: fn(&str) -> Option<T>) -> Read<Option<T>> {
        let text = self.text_opt(column)?;
        text.map(|text| from(&text).ok_or_else(|| self.bad(column, format!("unknown word {text:?}")))).transpose()
    }
}

/// JSON text of a value that always has one.
pub(super) fn json(value: &impl serde::Serialize) -> Read<String> {
    serde_json::to_string(value).map_err(|error| Fault::bad_row("a value", error))
}
