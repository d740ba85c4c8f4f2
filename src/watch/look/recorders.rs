//! What each recorder says of itself in its heartbeat records.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::clock::{self, Time};
use crate::store::{LogQuery, LogRow, Result, Store};
use crate::watch::observation::{RecorderSeen, SourceId};

/// Period of reading them; they are written about as often.
const READ_EVERY: Duration = Duration::from_secs(10);
/// How far back they are looked for: two periods of the default, and some way.
const LOOK_BACK: Duration = Duration::from_secs(45);
/// Heartbeats that one read returns, the newest.
const ROWS_MAX: usize = 1_000;
/// Late sources that are asked for apart, a read.
const LATE_MAX: usize = 20;
/// Heartbeats that are read of each of them; those of before its clock jumped may be among them.
const LATE_ROWS_MAX: usize = 20;
/// The last row may be the heartbeat.
const LATE_END: Duration = Duration::from_secs(1);
/// Text of a heartbeat record.
const HEARTBEAT: &str = "telemetry heartbeat";

/// The newest heartbeat of each recorder.
#[derive(Debug, Default)]
pub(super) struct Recorders {
    read_at: Option<Time>,
    newest: BTreeMap<SourceId, Entry>,
}

#[derive(Debug)]
struct Entry {
    pid: Option<i64>,
    seen: RecorderSeen,
}

impl Recorders {
    /// Reads what has arrived since, where that is due. `late` are sources whose newest row was made
    /// long before it came, and when: their heartbeats are found by their own time.
    pub(super) async fn read(&mut self, store: &dyn Store, now: Time, late: &[(SourceId, Time)]) -> Result<()> {
        if self.read_at.is_some_and(|at| clock::age(now, at) < READ_EVERY && at <= now) {
            return Ok(());
        }
        let query = LogQuery {
            since: Some(clock::minus(now, LOOK_BACK)),
            grep: Some(HEARTBEAT.to_owned()),
            limit: ROWS_MAX,
            ..LogQuery::default()
        };
        for row in store.logs(&query).await? {
            self.take(&row);
        }
        for (source, made) in late.iter().take(LATE_MAX) {
            let query = LogQuery {
                since: Some(clock::minus(*made, LOOK_BACK)),
                until: Some(clock::plus(*made, LATE_END)),
                source_type: Some(source.source_type.clone()),
                source_id: Some(source.source_id.clone()),
                grep: Some(HEARTBEAT.to_owned()),
                limit: LATE_ROWS_MAX,
                ..LogQuery::default()
            };
            let mut rows = store.logs(&query).await?;
            rows.sort_by_key(|row| row.ingested_at);
            rows.iter().for_each(|row| self.take(row));
        }
        self.read_at = Some(now);
        Ok(())
    }

    /// Takes one heartbeat, oldest first. A loss counts from the first heartbeat that was seen of
    /// that process on: what it lost before was another watch's to tell.
    fn take(&mut self, row: &LogRow) {
        let source = SourceId::new(row.source_type.clone(), row.source_id.clone());
        let number = |key: &str| row.metadata.get(key).and_then(Value::as_i64);
        let exporters = exporters(&row.metadata);
        let of_exporters = |key: &str| {
            let counts = exporters.iter().filter_map(|exporter| exporter.get(key).and_then(Value::as_u64));
            counts.sum::<u64>()
        };
        let own = number("lost").and_then(|lost| u64::try_from(lost).ok()).unwrap_or(0);
        let of_delivery = ["rejected", "quarantined", "dropped"].map(of_exporters);
        let lost = own + of_delivery.into_iter().sum::<u64>();
        let pid = number("pid");
        let before = self.newest.get(&source).filter(|entry| entry.pid == pid);
        if before.is_some_and(|entry| entry.seen.at > row.ingested_at) {
            return;
        }
        let lost_at = match before {
            Some(entry) if lost > entry.seen.lost => Some(row.ingested_at),
            Some(entry) => entry.seen.lost_at,
            None => None,
        };
        let seen = RecorderSeen {
            source: source.clone(),
            lost,
            lost_at,
            spool_low: row.metadata.get("spool_low").and_then(Value::as_bool).unwrap_or(false),
            pending: of_exporters("pending"),
            blocked: exporters.iter().filter_map(blocked).collect(),
            at: row.ingested_at,
        };
        self.newest.insert(source, Entry { pid, seen });
    }

    /// Those that should be alive; what others said is forgotten.
    pub(super) fn seen(&mut self, lives: impl Fn(&SourceId) -> bool) -> Vec<RecorderSeen> {
        self.newest.retain(|id, _| lives(id));
        self.newest.values().map(|entry| entry.seen.clone()).collect()
    }
}

/// Structured attributes travel as the text of JSON.
fn exporters(heartbeat: &Value) -> Vec<Value> {
    let list = match heartbeat.get("exporters") {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or(Value::Null),
        Some(other) => other.clone(),
        None => Value::Null,
    };
    list.as_array().cloned().unwrap_or_default()
}

fn blocked(exporter: &Value) -> Option<(String, String)> {
    let word = |key: &str| exporter.get(key).and_then(Value::as_str).map(str::to_owned);
    word("state").filter(|state| state == "blocked")?;
    Some((word("slot").unwrap_or_default(), word("last_error").unwrap_or_else(|| "no error was kept".to_owned())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn beat(second: i64, pid: i64, lost: u64, exporter: &str) -> LogRow {
        let exporters =
            format!("[{{\"slot\":\"otlp\",\"state\":\"{exporter}\",\"last_error\":\"401\",\"pending\":7}}]");
        LogRow {
            id: uuid::Uuid::nil(),
            timestamp: clock::from_micros(second * 1_000_000),
            source_type: "worker".into(),
            source_id: "w1".into(),
            log_level: "INFO".into(),
            message: HEARTBEAT.into(),
            task_id: None,
            worker_id: None,
            cycle_number: None,
            trace_id: None,
            span_id: None,
            metadata: json!({"pid": pid, "lost": lost, "spool_low": lost > 5, "exporters": exporters}),
            ingested_at: clock::from_micros(second * 1_000_000),
            arrival: second,
        }
    }

    fn check(rows: &[LogRow], lost_at: Option<i64>, blocked: usize) {
        let mut recorders = Recorders::default();
        rows.iter().for_each(|row| recorders.take(row));
        let seen = recorders.seen(|_| true);
        assert_eq!(seen[0].lost_at.map(|at| at.as_second()), lost_at);
        assert_eq!((seen[0].blocked.len(), seen[0].pending), (blocked, 7));
        assert!(recorders.seen(|_| false).is_empty(), "the dead are forgotten");
    }

    #[test]
    fn a_loss_is_a_rise_within_one_process() {
        check(&[beat(1, 9, 3, "idle")], None, 0);
        check(&[beat(1, 9, 3, "idle"), beat(2, 9, 3, "idle")], None, 0);
        check(&[beat(1, 9, 3, "idle"), beat(2, 9, 4, "idle"), beat(3, 9, 4, "blocked")], Some(2), 1);
        check(&[beat(1, 9, 3, "idle"), beat(2, 10, 4, "idle")], None, 0);
        check(&[beat(2, 9, 3, "blocked"), beat(1, 9, 9, "idle")], None, 1);
    }
}
