//! Rows of `system_logs` that somebody has put here.

use std::collections::BTreeMap;

use super::bounded;
use super::state::State;
use crate::fleet::snapshot::Record;
use crate::store::log_rows::{levels_from, records_from};
use crate::store::{LogQuery, LogRow, Result, SourceNewest};

/// Most log rows that are kept.
const LOGS_ROWS_MAX: usize = 100_000;

impl State {
    pub(super) fn add_log(&mut self, mut row: LogRow) {
        self.logs_ever += 1;
        row.arrival = self.logs_ever;
        self.logs.push_back(row);
        if self.logs.len() > LOGS_ROWS_MAX {
            self.logs.pop_front();
        }
    }

    pub(super) fn read_logs(&self, query: &LogQuery) -> Result<Vec<LogRow>> {
        let levels = query.level.as_deref().map(levels_from).transpose()?;
        let grep = query.grep.as_ref().map(|text| text.to_ascii_lowercase());
        let is = |wanted: &Option<String>, value: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| value == Some(wanted.as_str()))
        };
        let fits = |row: &&LogRow| {
            query.since.is_none_or(|since| row.timestamp >= since)
                && query.until.is_none_or(|until| row.timestamp < until)
                && levels.as_ref().is_none_or(|levels| levels.contains(&row.log_level.as_str()))
                && is(&query.source_id, Some(&row.source_id))
                && is(&query.source_type, Some(&row.source_type))
                && is(&query.worker.as_ref().map(|worker| worker.0.clone()), row.worker_id.as_deref())
                && is(&query.task.map(|task| task.to_string()), row.task_id.as_deref())
                && is(&query.trace.as_ref().map(|trace| trace.to_lowercase()), row.trace_id.as_deref())
                && query.cycle.is_none_or(|cycle| row.cycle_number == Some(cycle))
                && grep.as_ref().is_none_or(|text| row.message.to_ascii_lowercase().contains(text))
                && query.after_arrival.is_none_or(|arrival| row.arrival > arrival)
        };
        let mut rows: Vec<LogRow> = self.logs.iter().filter(fits).cloned().collect();
        if query.after_arrival.is_some() {
            rows.truncate(bounded(query.limit));
        } else {
            rows.sort_by_key(|row| (row.timestamp, row.arrival));
            rows.drain(..rows.len().saturating_sub(bounded(query.limit)));
        }
        Ok(rows)
    }

    fn newest_log_rows(&self) -> Vec<LogRow> {
        let mut newest: BTreeMap<(&str, &str), &LogRow> = BTreeMap::new();
        for row in &self.logs {
            newest.insert((&row.source_type, &row.source_id), row);
        }
        newest.into_values().cloned().collect()
    }

    pub(super) fn newest_rows(&self) -> Vec<SourceNewest> {
        self.newest_log_rows().into_iter().map(LogRow::into).collect()
    }

    pub(super) fn newest_records(&self) -> Vec<Record> {
        records_from(self.newest_log_rows())
    }
}
