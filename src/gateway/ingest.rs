//! Log rows of workers: checked here, written by whoever implements [`LogIngest`].
//!
//! A bad row refuses the whole call and is named by its index: a call is all or nothing, so that
//! the sender can tell what has arrived. The worker is the one whose token was shown, never one
//! that a row names.

use async_trait::async_trait;
use serde_json::Value;

use super::check;
use crate::fleet::ids::WorkerId;
use crate::rpc::{INGEST_ROWS_MAX, IngestRow, Ingested, Refusal};
use crate::telemetry::row::Row;
use crate::telemetry::row::ingest::from_ingest;

/// Longest message of a row, bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Writes rows to `system_logs`, and answers after its own commit.
#[async_trait]
pub trait LogIngest: Send + Sync {
    /// Writes all rows or none; one that is there already is received, not inserted.
    async fn ingest(&self, rows: Vec<Row>) -> Result<Ingested, IngestError>;
}

/// Why rows were not written; variants are what the caller does differently.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Not now: the sender keeps its rows and comes again.
    #[error("the log database does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row that passed the checks and still cannot be written.
    #[error("row {index} cannot be written: {detail}")]
    BadRow {
        /// Which row of the call.
        index: usize,
        /// What is wrong with it.
        detail: String,
    },
}

/// The call's rows, every one checked, under the name of the worker whose token was shown.
pub(super) fn read_rows(body: &Value, worker: &WorkerId) -> Result<Vec<Row>, Refusal> {
    let expected = "an array of at most 1,000 rows";
    let rows = body.get("rows").and_then(Value::as_array).ok_or_else(|| Refusal::malformed("rows", expected))?;
    if rows.len() > INGEST_ROWS_MAX {
        return Err(Refusal::malformed("rows", expected));
    }
    let one = |(index, row)| read_row(row, worker).map_err(|refusal| at(index, &refusal));
    rows.iter().enumerate().map(one).collect()
}

fn read_row(row: &Value, worker: &WorkerId) -> Result<Row, Refusal> {
    let row: IngestRow = check::read(row)?;
    if row.message.len() > MESSAGE_BYTES_MAX {
        return Err(Refusal::malformed("message", "at most 256 KiB of text"));
    }
    from_ingest(row, &worker.0).map_err(|(key, expected)| Refusal::malformed(key, &expected))
}

fn at(index: usize, refusal: &Refusal) -> Refusal {
    let key = refusal.details.as_deref().filter(|key| *key != "body");
    let path = key.map_or_else(|| format!("rows[{index}]"), |key| format!("rows[{index}].{key}"));
    let expected = refusal.message.rsplit_once("expected ").map_or("a row", |(_, expected)| expected);
    Refusal::malformed(&path, expected)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(change: impl Fn(&mut serde_json::Map<String, Value>)) -> Value {
        let mut row = json!({
            "id": "0199ec2a-7c58-7aaa-8bbb-0123456789ab", "timestamp": "2025-10-16T17:35:31.000001Z",
            "log_level": "WARNING", "message": "m", "task_id": null,
            "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331",
            "attributes": {"stream": "stdout"},
        });
        change(row.as_object_mut().unwrap());
        row
    }

    fn worker() -> WorkerId {
        WorkerId("gpu-1".to_owned())
    }

    fn named(bad: Value) -> String {
        read_rows(&json!({"rows": [row(|_| ()), bad]}), &worker())
            .map(|_| "ok".to_owned())
            .unwrap_or_else(|r| r.details.unwrap())
    }

    #[test]
    fn a_bad_row_is_named_by_its_index_and_key() {
        let set =
            |key: &'static str, value: Value| named(row(|row| drop(row.insert(key.to_owned(), value.clone()))));
        assert_eq!(named(row(|_| ())), "ok");
        assert_eq!(set("id", json!("x")), "rows[1].id");
        assert_eq!(set("timestamp", json!("yesterday")), "rows[1].timestamp");
        assert_eq!(set("timestamp", json!(5)), "rows[1].timestamp");
        assert_eq!(set("log_level", json!("LOUD")), "rows[1].log_level");
        assert_eq!(set("message", json!("x".repeat(MESSAGE_BYTES_MAX + 1))), "rows[1].message");
        assert_eq!(set("trace_id", json!("0af7")), "rows[1].trace_id");
        assert_eq!(set("span_id", json!("zzzzzzzzzzzzzzzz")), "rows[1].span_id");
        assert_eq!(set("attributes", json!([1])), "rows[1].attributes");
        assert_eq!(named(row(|row| drop(row.remove("message")))), "rows[1].message");
        assert_eq!(named(json!("not a row")), "rows[1]");
    }

    #[test]
    fn at_most_a_thousand_rows() {
        let rows = |n: usize| json!({"rows": vec![row(|_| ()); n]});
        assert_eq!(read_rows(&rows(INGEST_ROWS_MAX), &worker()).unwrap().len(), INGEST_ROWS_MAX);
        assert_eq!(read_rows(&rows(INGEST_ROWS_MAX + 1), &worker()).unwrap_err().details.as_deref(), Some("rows"));
        assert_eq!(read_rows(&json!({}), &worker()).unwrap_err().details.as_deref(), Some("rows"));
    }
}
