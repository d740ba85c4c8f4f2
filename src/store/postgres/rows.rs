//! Values of a row, read by name; what does not fit names its column. And values on their way in:
//! instants as Postgres has them, texts without the one character that it cannot keep.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgRow, PgTypeInfo, PgValueFormat, PgValueRef, Postgres};
use sqlx::{Decode, Encode, Row as _, Type};
use uuid::Uuid;

use super::fault::Fault;
use crate::clock::{self, Time};

/// 2000-01-01T00:00:00Z, where Postgres begins to count, in microseconds since 1970.
const PG_EPOCH_MICROS: i64 = 946_684_800_000_000;
/// The type `timestamptz`.
const TIMESTAMPTZ: Oid = Oid(1184);

/// An instant on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At(pub(super) Time);

impl At {
    /// That many microseconds since 1970.
    pub(super) fn micros(micros: i64) -> At {
        At(clock::from_micros(micros))
    }
}

impl Type<Postgres> for At {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl Encode<'_, Postgres> for At {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let micros = self.0.as_microsecond() - PG_EPOCH_MICROS;
        buffer.extend_from_slice(&micros.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for At {
    fn decode(value: PgValueRef<'_>) -> Result<At, BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("an instant that is not binary".into());
        }
        let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
        Ok(At::micros(i64::from_be_bytes(bytes).saturating_add(PG_EPOCH_MICROS)))
    }
}

/// A row with its table's name for error texts.
pub(super) struct Values<'a>(pub(super) &'static str, pub(super) &'a PgRow);

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

    /// True or false.
    pub(super) fn flag(&self, column: &str) -> Read<bool> {
        Ok(self.1.try_get(column)?)
    }

    /// True, false or null.
    pub(super) fn flag_opt(&self, column: &str) -> Read<Option<bool>> {
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
        Ok(self.1.try_get::<At, _>(column)?.0)
    }

    /// An instant or null.
    pub(super) fn time_opt(&self, column: &str) -> Read<Option<Time>> {
        Ok(self.1.try_get::<Option<At>, _>(column)?.map(|at| at.0))
    }

    /// A uuid.
    pub(super) fn uuid(&self, column: &str) -> Read<Uuid> {
        Ok(self.1.try_get(column)?)
    }

    /// A uuid or null.
    pub(super) fn uuid_opt(&self, column: &str) -> Read<Option<Uuid>> {
        Ok(self.1.try_get(column)?)
    }

    /// JSON of a known shape.
    pub(super) fn json<T: DeserializeOwned>(&self, column: &str) -> Read<T> {
        let value: Value = self.1.try_get(column)?;
        serde_json::from_value(value).map_err(|error| self.bad(column, error))
    }

    /// JSON of a known shape, or null.
    pub(super) fn json_opt<T: DeserializeOwned>(&self, column: &str) -> Read<Option<T>> {
        let value: Option<Value> = self.1.try_get(column)?;
        value.map(|value| serde_json::from_value(value).map_err(|error| self.bad(column, error))).transpose()
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

/// JSON of a value that always has one.
pub(super) fn json(value: &impl serde::Serialize) -> Read<Value> {
    serde_json::to_value(value).map(kept).map_err(|error| Fault::bad_row("a value", error))
}

/// The text as Postgres can keep it: NUL becomes U+FFFD.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// The same for all texts in a value.
pub(super) fn kept(value: Value) -> Value {
    match value {
        Value::String(string) if string.contains('\0') => Value::String(text(&string).into_owned()),
        Value::Array(items) => items.into_iter().map(kept).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(key, value)| (text(&key).into_owned(), kept(value))).collect()
        }
        value => value,
    }
}
