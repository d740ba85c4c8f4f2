//! A trace as a tree: spans by parent, records under the span they were made in. Pure.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use crate::cli::render;
use crate::store::LogRow;

/// Deepest level that is drawn; a longer chain of parents is a fault of its source.
const DEPTH_MAX: usize = 64;

/// The tree of `rows`, which are one trace's.
pub(super) fn draw(rows: &[LogRow]) -> String {
    let spans: HashSet<&str> =
        rows.iter().filter(|row| is_span(row)).filter_map(|row| row.span_id.as_deref()).collect();
    let mut children: BTreeMap<Option<&str>, Vec<&LogRow>> = BTreeMap::new();
    for row in rows {
        let parent = if is_span(row) {
            row.metadata.get("parent_span_id").and_then(|id| id.as_str())
        } else {
            row.span_id.as_deref()
        };
        children.entry(parent.filter(|id| spans.contains(id))).or_default().push(row);
    }
    for siblings in children.values_mut() {
        siblings.sort_by_key(|row| (start(row), row.id));
    }
    let mut out = String::new();
    branch(&children, None, 0, &mut out);
    if out.is_empty() { "no rows of this trace".to_owned() } else { out.trim_end().to_owned() }
}

fn is_span(row: &LogRow) -> bool {
    row.metadata.get("kind").and_then(|kind| kind.as_str()) == Some("span")
}

/// How long the span took; None: the row is a record.
pub(super) fn span_ms(row: &LogRow) -> Option<f64> {
    is_span(row).then(|| row.metadata.get("duration_ms").and_then(serde_json::Value::as_f64).unwrap_or(0.0))
}

/// When it began: a span row's own time is its end.
fn start(row: &LogRow) -> String {
    let start = row.metadata.get("start").and_then(|start| start.as_str());
    start.map_or_else(|| row.timestamp.to_string(), str::to_owned)
}

fn branch(children: &BTreeMap<Option<&str>, Vec<&LogRow>>, of: Option<&str>, depth: usize, out: &mut String) {
    if depth > DEPTH_MAX {
        return;
    }
    for row in children.get(&of).into_iter().flatten() {
        let indent = "  ".repeat(depth);
        let source = format!("{}/{}", row.source_type, row.source_id);
        if let Some(duration) = span_ms(row) {
            let _ = writeln!(out, "{indent}▸ {}  {duration:.1} ms  ({source})", render::printable(&row.message));
            if row.span_id.is_some() {
                branch(children, row.span_id.as_deref(), depth + 1, out);
            }
        } else {
            let _ = writeln!(out, "{indent}· {} {}  ({source})", row.log_level, render::printable(&row.message));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock;

    fn row(span: &str, parent: Option<&str>, message: &str, at: i64, is_span: bool) -> LogRow {
        LogRow {
            id: uuid::Uuid::from_u128(at.unsigned_abs().into()),
            timestamp: clock::from_micros(at),
            source_type: "worker".into(),
            source_id: "w1".into(),
            log_level: "INFO".into(),
            message: message.into(),
            task_id: None,
            worker_id: None,
            cycle_number: None,
            trace_id: Some("t".into()),
            span_id: Some(span.into()),
            metadata: if is_span {
                json!({"kind": "span", "parent_span_id": parent, "duration_ms": 1.5})
            } else {
                json!({})
            },
            ingested_at: clock::from_micros(at),
            arrival: at,
        }
    }

    #[test]
    fn spans_nest_and_records_stand_under_their_span() {
        let rows = [
            row("b", Some("a"), "run", 2_000_000, true),
            row("b", None, "line of output", 1_000_000, false),
            row("a", Some("elsewhere"), "submit", 3_000_000, true),
        ];
        let expected = expect_test::expect![[r"
            ▸ submit  1.5 ms  (worker/w1)
              ▸ run  1.5 ms  (worker/w1)
                · INFO line of output  (worker/w1)"]];
        expected.assert_eq(&draw(&rows));
    }

    #[test]
    fn a_ring_of_parents_ends() {
        let rows = [row("a", Some("b"), "x", 1, true), row("b", Some("a"), "y", 2, true)];
        assert_eq!(draw(&rows), "no rows of this trace");
    }
}
