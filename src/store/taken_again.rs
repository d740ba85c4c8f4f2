//! For tests: every decision row that a test writes is taken again, by what `why` and `replay` call.
//!
//! Rows are read back from the store, so that what is compared is what was stored. They are counted:
//! with DOGWATCH_TEST_DECISIONS each check adds a line with its number of rows to that file.

use std::io::Write as _;

use super::{DecisionQuery, DecisionRow, Store};

/// Every row of the store gives its decision again, byte for byte; how many there are.
pub(crate) async fn all(store: &dyn Store) -> usize {
    let mut query = DecisionQuery { oldest_first: true, limit: 500, ..DecisionQuery::default() };
    let mut rows_read = 0;
    loop {
        let rows = store.decision_rows(&query).await.unwrap();
        rows.iter().for_each(check);
        rows_read += rows.len();
        match rows.last() {
            Some(last) => query.after = Some(last.id),
            None => break,
        }
    }
    count(rows_read as u64);
    rows_read
}

/// The row that was written last does.
pub(crate) async fn newest(store: &dyn Store) {
    let query = DecisionQuery { limit: 1, ..DecisionQuery::default() };
    store.decision_rows(&query).await.unwrap().iter().for_each(check);
    count(1);
}

fn check(row: &DecisionRow) {
    let bytes = |decision| serde_json::to_string(decision).unwrap();
    assert_eq!(bytes(&row.taken_again()), bytes(&row.decision), "row {} is another decision", row.id.0);
    assert!(row.is_reproduced(), "row {}", row.id.0);
}

/// Adds to what was counted.
#[expect(clippy::disallowed_methods, reason = "whoever runs the tests asks for the count by a variable")]
pub(crate) fn count(rows: u64) {
    if let Some(path) = std::env::var_os("DOGWATCH_TEST_DECISIONS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{rows}\n").as_bytes()).unwrap();
    }
}
