//! How the document is read: what may be absent, what null means, and how times look.
//!
//! Absent means null, and null means the default; an empty `live` says nothing and is none. Any
//! object may carry a `live` object; where this code reads none, its keys are left alone. Times are
//! RFC 3339 with any offset and at most 6 fraction digits. Everything else that is not known is an
//! error: nothing is guessed.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, MapAccess, Unexpected, Visitor};
use serde_json::{Map, Value};

use super::super::cell::Cell;
use super::super::ids::{PodId, TaskId, WorkerId};
use super::super::outcome::Outcome;
use super::super::refusal::Refusal;
use super::super::state::{Status, WorkerState};
use super::{Leaving, PodSeen, Record, RowCounts, Suspect, User, Worker, WorkerLive};
use crate::clock::Time;

/// The pool of a worker whose `live` part names none.
const POOL_UNNAMED: &str = "default";

/// A worker as written.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorker {
    id: WorkerId,
    #[serde(deserialize_with = "time")]
    created_at: Time,
    status: Status,
    #[serde(default, deserialize_with = "time_or_null")]
    promoted_at: Option<Time>,
    #[serde(default, deserialize_with = "time_or_null")]
    first_heartbeat_at: Option<Time>,
    #[serde(default, deserialize_with = "time_or_null")]
    last_heartbeat_at: Option<Time>,
    #[serde(default, deserialize_with = "time_or_null")]
    ended_at: Option<Time>,
    reason: Option<String>,
    running_tasks: Option<u32>,
    tasks_claimed: Option<u32>,
    #[serde(default, deserialize_with = "filled")]
    live: Option<RawWorkerLive>,
}

/// The live part of a worker as written: an incident may hold no more than the stored outcome.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkerLive {
    state: Option<WorkerState>,
    #[serde(default, deserialize_with = "time_or_null")]
    state_since: Option<Time>,
    outcome: Option<Outcome>,
    leaving: Option<Leaving>,
    pool: Option<String>,
    pod_id: Option<PodId>,
    pod: Option<PodSeen>,
    #[serde(default, deserialize_with = "time_or_null")]
    progress_at: Option<Time>,
    #[serde(default, deserialize_with = "time_or_null")]
    idle_since: Option<Time>,
    tasks: Option<Vec<TaskId>>,
    cell: Option<Cell>,
    usd_per_hour: Option<f64>,
    refusal: Option<Refusal>,
    suspects: Option<Vec<Suspect>>,
    unlisted: Option<u32>,
}

impl From<RawWorker> for Worker {
    fn from(raw: RawWorker) -> Worker {
        let state = match raw.status {
            Status::Spawning => WorkerState::Starting,
            Status::Active if raw.running_tasks.unwrap_or(0) > 0 => WorkerState::Busy,
            Status::Active => WorkerState::Alive,
            Status::Terminating => WorkerState::Terminating,
            Status::Error | Status::Terminated | Status::Crashed => WorkerState::Gone,
        };
        let live = raw.live.map(|live| WorkerLive {
            state: live.state.unwrap_or(state),
            state_since: live.state_since.unwrap_or(raw.created_at),
            outcome: live.outcome,
            leaving: live.leaving,
            pool: live.pool.unwrap_or_else(|| POOL_UNNAMED.to_owned()),
            pod_id: live.pod_id,
            pod: live.pod,
            progress_at: live.progress_at,
            idle_since: live.idle_since,
            tasks: live.tasks.unwrap_or_default(),
            cell: live.cell,
            usd_per_hour: live.usd_per_hour,
            refusal: live.refusal,
            suspects: live.suspects.unwrap_or_default(),
            unlisted: live.unlisted,
        });
        Worker {
            id: raw.id,
            created_at: raw.created_at,
            status: raw.status,
            promoted_at: raw.promoted_at,
            first_heartbeat_at: raw.first_heartbeat_at,
            last_heartbeat_at: raw.last_heartbeat_at,
            ended_at: raw.ended_at,
            reason: raw.reason,
            running_tasks: raw.running_tasks.unwrap_or(0),
            tasks_claimed: raw.tasks_claimed,
            live,
        }
    }
}

/// A user as written.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUser {
    user: String,
    queued: u64,
    in_progress: u64,
    credits: Option<f64>,
    cloud_enabled: Option<bool>,
    dependency_blocked: Option<u64>,
    #[serde(rename = "live")]
    _live: Option<Map<String, Value>>,
}

impl From<RawUser> for User {
    fn from(raw: RawUser) -> User {
        User {
            user: raw.user,
            queued: raw.queued,
            in_progress: raw.in_progress,
            credits: raw.credits,
            cloud_enabled: raw.cloud_enabled,
            dependency_blocked: raw.dependency_blocked.unwrap_or(0),
        }
    }
}

/// Row counts as written.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRowCounts {
    tasks: Option<u64>,
    workers: Option<u64>,
    #[serde(rename = "live")]
    _live: Option<Map<String, Value>>,
}

impl From<RawRowCounts> for RowCounts {
    fn from(raw: RawRowCounts) -> RowCounts {
        RowCounts { tasks: raw.tasks, workers: raw.workers }
    }
}

/// A record as written.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRecord {
    source_type: String,
    source_id: Option<String>,
    #[serde(deserialize_with = "time")]
    timestamp: Time,
    cycle: Option<i64>,
    message: Option<String>,
    #[serde(rename = "live")]
    _live: Option<Map<String, Value>>,
}

impl From<RawRecord> for Record {
    fn from(raw: RawRecord) -> Record {
        Record {
            source_type: raw.source_type,
            source_id: raw.source_id,
            timestamp: raw.timestamp,
            cycle: raw.cycle,
            message: raw.message,
        }
    }
}

/// Null is the default.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(de: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(de)?.unwrap_or_default())
}

/// A time.
pub(super) fn time<'de, D: Deserializer<'de>>(de: D) -> Result<Time, D::Error> {
    de.deserialize_str(TimeVisitor)
}

/// A time, or null.
pub(super) fn time_or_null<'de, D: Deserializer<'de>>(de: D) -> Result<Option<Time>, D::Error> {
    struct Strict(Time);
    impl<'de> Deserialize<'de> for Strict {
        fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
            time(de).map(Strict)
        }
    }
    Ok(Option::<Strict>::deserialize(de)?.map(|strict| strict.0))
}

struct TimeVisitor;

impl Visitor<'_> for TimeVisitor {
    type Value = Time;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time by RFC 3339 with at most 6 fraction digits, such as \"2025-10-16T17:35:31Z\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
        parse_time(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// The instant of an RFC 3339 text, which is stricter than what jiff reads: no other separators, no
/// zone names, no missing seconds, at most 6 fraction digits.
pub fn parse_time(text: &str) -> Option<Time> {
    let text = text.to_ascii_uppercase();
    let is_shape = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                b'+' => byte == b'+' || byte == b'-',
                _ => byte == shape,
            })
    };
    let (seconds, rest) = text.split_at_checked("0000-00-00T00:00:00".len())?;
    let digits = rest.strip_prefix('.').map(|rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let offset = match digits {
        Some(0) | Some(7..) => return None,
        Some(digits) => &rest[1 + digits..],
        None => rest,
    };
    let offset_is_real = offset == "Z" || (is_shape(offset, "+00:00") && &offset[1..3] < "24");
    (is_shape(seconds, "0000-00-00T00:00:00") && offset_is_real).then(|| text.parse().ok()).flatten()
}

/// An object with at least one key; null and the empty object are none.
pub(super) fn filled<'de, D: Deserializer<'de>, T: Deserialize<'de>>(de: D) -> Result<Option<T>, D::Error> {
    de.deserialize_any(FilledVisitor(PhantomData))
}

struct FilledVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FilledVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or null")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
        let Some(first) = map.next_key::<String>()? else { return Ok(None) };
        T::deserialize(MapAccessDeserializer::new(Peeked { first: Some(first), map })).map(Some)
    }
}

/// A map whose first key has been read already.
struct Peeked<A> {
    first: Option<String>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Peeked<A> {
    type Error = A::Error;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(key) => seed.deserialize(key.into_deserializer()).map(Some),
            None => self.map.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}
