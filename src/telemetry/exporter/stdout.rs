//! Records as JSON lines into anything that can be written to.
//!
//! The write happens on a helper thread, because a pipe that nobody reads blocks for ever and
//! nothing interrupts it. An abandoned batch stays with that thread: as long as it is stuck every
//! export is a Retry, and if it gets through after all, asking for the same batch again is
//! answered by it and not written twice.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{ExportError, Exported, Exporter, Timed, rows_of};
use crate::clock::{self, Time};
use crate::telemetry::record::Stored;
use crate::telemetry::row::Row;

/// The exporter `stdout`.
pub struct StdoutExporter<W> {
    runtime: Timed,
    pipe: Pipe<W>,
}

struct Pipe<W> {
    out: Arc<Mutex<W>>,
    /// The write that is under way, and which batch it is.
    writing: Option<(BatchId, JoinHandle<io::Result<()>>)>,
}

/// Boot and first and last sequence number.
type BatchId = Option<(Uuid, u64, u64)>;

impl<W: Write + Send + 'static> StdoutExporter<W> {
    /// An exporter that writes lines to `out`.
    ///
    /// # Errors
    /// The operating system gives no runtime.
    pub fn new(out: W) -> io::Result<StdoutExporter<W>> {
        let pipe = Pipe { out: Arc::new(Mutex::new(out)), writing: None };
        Ok(StdoutExporter { runtime: Timed::new()?, pipe })
    }
}

impl<W: Write + Send + 'static> Pipe<W> {
    async fn write(&mut self, batch: BatchId, lines: Vec<u8>) -> Result<(), ExportError> {
        if let Some((other, writing)) = &mut self.writing {
            let (other, done) = (*other, writing.await);
            self.writing = None;
            if other == batch && written(done).is_ok() {
                return Ok(());
            }
        }
        let out = Arc::clone(&self.out);
        let handle = tokio::task::spawn_blocking(move || {
            let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
            out.write_all(&lines)?;
            out.flush()
        });
        let (_, writing) = self.writing.insert((batch, handle));
        let done = writing.await;
        self.writing = None;
        written(done)
    }
}

fn written(done: Result<io::Result<()>, tokio::task::JoinError>) -> Result<(), ExportError> {
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(ExportError::Blocked {
            detail: "nobody reads the output".to_owned(),
            remedy: "start the reader again, together with this process".to_owned(),
        }),
        Ok(Err(error)) => Err(ExportError::retry(format!("the output cannot be written: {error}"))),
        Err(_) => Err(ExportError::retry("the writing thread failed")),
    }
}

impl<W: Write + Send + 'static> Exporter for StdoutExporter<W> {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn export(&mut self, batch: &[Stored], _now: Time, deadline: Duration) -> Result<Exported, ExportError> {
        let mut lines = Vec::new();
        for row in rows_of(batch)? {
            serde_json::to_writer(&mut lines, &line(row))
                .map_err(|error| ExportError::Refused { detail: format!("no JSON: {error}") })?;
            lines.push(b'\n');
        }
        let id = batch.first().zip(batch.last()).map(|(first, last)| (first.boot, first.seq, last.seq));
        let done = self.runtime.run(deadline, self.pipe.write(id, lines));
        done.map(|()| Exported { delivered: batch.len() as u64, rejected: 0 })
    }
}

/// The line of a row; what a row does not have is left out.
pub fn line(row: Row) -> Value {
    let mut line = Map::new();
    line.insert("timestamp".into(), json!(clock::from_micros(row.timestamp).to_string()));
    line.insert("level".into(), json!(row.log_level.word()));
    line.insert("source_type".into(), json!(row.source_type));
    line.insert("source_id".into(), json!(row.source_id));
    line.insert("message".into(), json!(row.message));
    let optional = [
        ("task_id", json!(row.task_id)),
        ("worker_id", json!(row.worker_id)),
        ("cycle_number", json!(row.cycle_number)),
        ("trace_id", json!(row.trace_id)),
        ("span_id", json!(row.span_id)),
        ("attributes", row.metadata),
    ];
    for (key, value) in optional {
        if !value.is_null() && value.as_object().is_none_or(|object| !object.is_empty()) {
            line.insert(key.into(), value);
        }
    }
    Value::Object(line)
}

#[cfg(test)]
mod tests;
