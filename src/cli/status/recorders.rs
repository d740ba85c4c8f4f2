//! What each recorder says of itself in its newest heartbeat record, where that is less than the
//! whole promise: a ring outside the data folder, an exporter that does not deliver.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::clock::{self, Time};
use crate::store::{LogQuery, LogRow, Store};

/// Heartbeats older than this say nothing about now; four periods.
const RECENT: Duration = Duration::from_secs(60);
/// Text of a heartbeat record.
const HEARTBEAT: &str = "telemetry heartbeat";
/// Heartbeats that are read.
const ROWS_MAX: usize = 1_000;

/// One line a recorder that has something to say; the others are well.
pub(super) async fn lines(store: &dyn Store, now: Time) -> anyhow::Result<Vec<String>> {
    let query = LogQuery {
        since: Some(clock::minus(now, RECENT)),
        grep: Some(HEARTBEAT.to_owned()),
        limit: ROWS_MAX,
        ..LogQuery::default()
    };
    Ok(say(&store.logs(&query).await?))
}

fn say(rows: &[LogRow]) -> Vec<String> {
    let newest: BTreeMap<_, _> = rows.iter().map(|row| ((&row.source_type, &row.source_id), row)).collect();
    newest
        .into_iter()
        .filter_map(|((source_type, source_id), row)| {
            let parts: Vec<String> = weaker(&row.metadata).into_iter().chain(held(&row.metadata)).collect();
            (!parts.is_empty()).then(|| format!("{source_type}/{source_id}: {}", parts.join("; ")))
        })
        .collect()
}

/// The promise, where the ring is not in the data folder.
fn weaker(heartbeat: &Value) -> Option<String> {
    let backing = heartbeat.get("ring_backing")?.as_str()?;
    let promise = heartbeat.get("ring_promise").and_then(Value::as_str).unwrap_or(backing);
    (backing != "data_folder").then(|| promise.to_owned())
}

/// Exporters that were held or trying again, with their last error.
fn held(heartbeat: &Value) -> Vec<String> {
    // Structured attributes travel as the text of JSON.
    let exporters = match heartbeat.get("exporters") {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or(Value::Null),
        Some(other) => other.clone(),
        None => Value::Null,
    };
    let word = |exporter: &Value, key: &str| exporter.get(key).and_then(Value::as_str).map(str::to_owned);
    exporters
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|exporter| {
            let state = word(exporter, "state").filter(|state| state == "blocked" || state == "retrying")?;
            let slot = word(exporter, "slot").unwrap_or_default();
            let error = word(exporter, "last_error").unwrap_or_else(|| "no error".to_owned());
            Some(format!("exporter {slot} {state}: {error}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(source_id: &str, metadata: Value) -> LogRow {
        LogRow {
            id: uuid::Uuid::nil(),
            timestamp: clock::from_micros(1),
            source_type: "worker".into(),
            source_id: source_id.into(),
            log_level: "INFO".into(),
            message: HEARTBEAT.into(),
            task_id: None,
            worker_id: None,
            cycle_number: None,
            trace_id: None,
            span_id: None,
            metadata,
            ingested_at: clock::from_micros(1),
            arrival: 1,
        }
    }

    #[test]
    fn only_what_is_less_than_the_whole_promise_is_said_and_only_the_newest() {
        let well =
            json!({"ring_backing": "data_folder", "exporters": "[{\"slot\":\"database\",\"state\":\"idle\"}]"});
        let blocked = r#"[{"slot":"otlp","state":"blocked","last_error":"401"}]"#;
        let rows = [
            row("a", json!({"ring_backing": "anonymous", "ring_promise": "weaker"})),
            row("a", well),
            row("b", json!({"ring_backing": "anonymous", "ring_promise": "in plain memory"})),
            row("c", json!({"ring_backing": "data_folder", "exporters": blocked})),
        ];
        assert_eq!(say(&rows), ["worker/b: in plain memory", "worker/c: exporter otlp blocked: 401"]);
    }
}
