//! OTLP over HTTP: logs and traces from the stored bytes, as they are.
//!
//! A batch becomes at most one request a signal: the records' own bytes, put behind each other
//! under their resource. Both must be taken or the batch is not delivered; what was taken is then
//! sent once more, so that delivery is at least once. What the receiver says it has rejected
//! (partial success) is counted as dropped, never as delivered, and never sent again. Answers mean
//! what the OTLP specification says: 429, 502, 503, 504 and no answer are tried again, every other
//! refusal is not; a refused batch is halved by the shipper until the poison record stands alone.
//! A signal without an endpoint is switched off: its records are taken for delivered.
//!
//! Headers carry keys: they are in no error and no `Debug` (I17). gRPC is not spoken here.

mod answer;
pub mod config;
pub(crate) mod post;
mod request;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

pub use self::config::{Compression, Endpoint, OtlpConfig};
use self::post::Poster;
use super::{ExportError, Exported, Exporter, Timed};
use crate::clock::Time;
use crate::telemetry::record::{Kind, Stored};

/// The exporter `otlp`.
pub struct OtlpExporter {
    // Dropped before the runtime that drives their connections.
    signals: Vec<Signal>,
    runtime: Timed,
    /// What the receiver said about records that it has rejected; told once.
    said: Option<String>,
}

/// One signal that is switched on.
struct Signal {
    kind: Kind,
    poster: Poster,
}

impl OtlpExporter {
    /// An exporter to the endpoints of `config`; nothing is connected yet.
    ///
    /// # Errors
    /// The operating system gives no runtime.
    pub fn new(config: OtlpConfig) -> io::Result<OtlpExporter> {
        let signal = |kind, name, endpoint: Option<Endpoint>| {
            endpoint.map(|endpoint| Signal { kind, poster: Poster::new(name, endpoint) })
        };
        let logs = signal(Kind::Log, "logs", config.logs);
        let traces = signal(Kind::Span, "traces", config.traces);
        Ok(OtlpExporter { signals: logs.into_iter().chain(traces).collect(), runtime: Timed::new()?, said: None })
    }
}

impl Exporter for OtlpExporter {
    fn name(&self) -> &'static str {
        "otlp"
    }

    fn export(&mut self, batch: &[Stored], now: Time, deadline: Duration) -> Result<Exported, ExportError> {
        let mut requests = Vec::new();
        for signal in &mut self.signals {
            let Some(plain) = request::encode(batch, signal.kind) else { continue };
            let request = request::compress(plain, signal.poster.endpoint().compression)?;
            requests.push((signal.poster.ready()?, request));
        }
        let taken = self.runtime.run(deadline, async {
            let mut taken = Vec::new();
            for (ready, request) in requests {
                let records = request.records;
                let answer = ready.post(request.body.into(), request.is_gzip).await?;
                taken.push(answer.check(ready.signal, records, now)?);
            }
            Ok(taken)
        })?;
        let rejected = taken.iter().map(|taken| taken.rejected).sum();
        if let Some(said) = taken.into_iter().find_map(|taken| taken.said) {
            self.said = Some(said);
        }
        Ok(Exported { delivered: (batch.len() as u64).saturating_sub(rejected), rejected })
    }

    /// Says what the receiver said about rejected records, so that it stands in the status.
    fn maintain(&mut self, _now: Time, _deadline: Duration) -> Result<(), ExportError> {
        self.said.take().map_or(Ok(()), |detail| Err(ExportError::Refused { detail }))
    }
}
