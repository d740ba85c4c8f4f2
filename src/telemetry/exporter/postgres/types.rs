//! Times on the wire: Postgres counts microseconds from 2000, and so do we, without a detour
//! through text that a time zone could change.

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, Postgres};

/// Microseconds from 1970 to 2000.
const EPOCH_2000_MICROS: i64 = 946_684_800_000_000;
/// The first and the last instant that Postgres can keep, microseconds since 2000.
const RANGE: (i64, i64) = (-211_813_488_000_000_000, 9_223_371_331_199_999_999);

/// A `timestamptz`: microseconds since 1970, kept within what the database can represent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PgTime(pub(crate) i64);

impl sqlx::Type<Postgres> for PgTime {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for PgTime {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl PgTime {
    /// As the database counts.
    pub(super) fn micros_since_2000(self) -> i64 {
        self.0.saturating_sub(EPOCH_2000_MICROS).clamp(RANGE.0, RANGE.1)
    }
}

impl Encode<'_, Postgres> for PgTime {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.micros_since_2000().to_be_bytes());
        Ok(IsNull::No)
    }
}
