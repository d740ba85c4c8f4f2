//! A snapshot as decision rows keep it: the instant apart from the body.
//!
//! Body = JSON with the instant, the cycle's number and the ages of the inputs set to nothing;
//! equal bodies mean that nothing else has changed. `join(split(s))` is `s`.

use std::io::Read as _;

use crate::clock::{self, Time};
use crate::fleet::snapshot::{Live, Snapshot};

/// Largest body, bytes before compression.
const BODY_BYTES_MAX: u64 = 256 << 20;
/// zstd's level: its default.
const ZSTD_LEVEL: i32 = 3;

/// What differs each cycle anyhow.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Instant {
    pub(super) as_of: Time,
    pub(super) cycle: Option<i64>,
    pub(super) database_age: Option<i64>,
    pub(super) provider_age: Option<i64>,
}

/// The instant, and the body's JSON.
pub(super) fn split(snapshot: &Snapshot) -> serde_json::Result<(Instant, Vec<u8>)> {
    let mut body = snapshot.clone();
    let live = snapshot.live.as_ref();
    let age = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let instant = Instant {
        as_of: snapshot.as_of,
        cycle: live.map(|live| live.cycle),
        database_age: live.map(|live| age(live.inputs.database.age_seconds)),
        provider_age: live.map(|live| age(live.inputs.provider.age_seconds)),
    };
    body.as_of = clock::from_micros(0);
    if let Some(live) = &mut body.live {
        set(live, 0, 0, 0);
    }
    Ok((instant, serde_json::to_vec(&body)?))
}

/// The body as it is stored.
pub(super) fn pack(body: &[u8]) -> std::io::Result<Vec<u8>> {
    zstd::stream::encode_all(body, ZSTD_LEVEL)
}

/// The snapshot again.
pub(super) fn join(instant: &Instant, packed: &[u8]) -> std::io::Result<Snapshot> {
    let mut body = Vec::new();
    zstd::stream::Decoder::new(packed)?.take(BODY_BYTES_MAX).read_to_end(&mut body)?;
    let mut snapshot: Snapshot = serde_json::from_slice(&body)?;
    snapshot.as_of = instant.as_of;
    if let Some(live) = &mut snapshot.live {
        let age = |seconds: Option<i64>| u64::try_from(seconds.unwrap_or(0)).unwrap_or(0);
        set(live, instant.cycle.unwrap_or(0), age(instant.database_age), age(instant.provider_age));
    }
    Ok(snapshot)
}

fn set(live: &mut Live, cycle: i64, database_age: u64, provider_age: u64) {
    live.cycle = cycle;
    live.inputs.database.age_seconds = database_age;
    live.inputs.provider.age_seconds = provider_age;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fleet::policy::Policy;
    use crate::fleet::snapshot::{Demand, User};

    proptest! {
        /// Byte for byte: a decision is taken again from what was stored, floating point numbers too.
        #[test]
        fn a_stored_snapshot_is_the_same_again(
            micros in 0..4_000_000_000_000_000_i64,
            credits in proptest::num::f64::NORMAL,
            failure_rate_max in 0.0..1.0,
        ) {
            let user = User {
                user: "ada".into(),
                queued: 1,
                in_progress: 0,
                credits: Some(credits),
                cloud_enabled: None,
                dependency_blocked: 0,
            };
            let snapshot = Snapshot {
                schema_version: 1,
                name: "fleet.test".into(),
                as_of: clock::from_micros(micros),
                policy: Policy { failure_rate_max, ..Policy::default() },
                workers: Vec::new(),
                demand: Some(Demand { users: vec![user], ..Demand::default() }),
                records: Vec::new(),
                live: None,
            };
            let (instant, body) = split(&snapshot).unwrap();
            prop_assert_eq!(join(&instant, &pack(&body).unwrap()).unwrap(), snapshot);
        }
    }
}
