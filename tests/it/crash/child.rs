//! The process that is killed: emits numbered records until it dies.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use dogwatch::clock;
use dogwatch::telemetry::record::Source;
use dogwatch::telemetry::{self, Adopt, Config, Destination, Guard};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogExporter, SdkLoggerProvider};
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Variable with the [`Order`].
pub(super) const ORDER: &str = "DOGWATCH_TEST_CRASH";
/// Said through the pipe before the recorder starts.
pub(super) const STARTING: u64 = 0;
/// Said once it has.
pub(super) const RUNNING: u64 = u64::MAX;
/// File of the two programs that write to one.
pub(super) const FILE: &str = "log.jsonl";
/// A child that nobody kills ends by itself.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// Before each number that it divides a span is opened and closed.
pub(super) const CLOSED_EVERY: u64 = 8;
/// Emitters wait while more of the ring is in use, so that nothing is refused.
const FILL_MAX: f64 = 0.5;

/// What the child does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) program: Program,
    pub(super) folder: PathBuf,
    pub(super) threads: u64,
    /// How many were killed in this folder before.
    pub(super) process: u64,
    /// Numbers of each thread before it ends by itself.
    pub(super) numbers_max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Program {
    Recorder(Mode),
    Appender,
    Batch,
}

/// What the kill is to fall into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
    /// The usual settings.
    Steady,
    /// A segment is full every few dozen records.
    Rotating,
    /// Each fourth record is an ERROR, which is synced at once.
    Syncing,
    /// An exporter delivers meanwhile.
    Delivering,
    /// Takes over what a dead process left.
    Adopting,
    /// Syncs seldom, so that much is left in the ring.
    Holding,
}

impl Mode {
    pub(super) const ALL: [Mode; 5] =
        [Mode::Steady, Mode::Rotating, Mode::Syncing, Mode::Delivering, Mode::Adopting];
}

/// The settings of every recorder here.
pub(super) fn config(folder: &Path) -> Config {
    let source = Source { source_type: "external".into(), source_id: "killed".into(), resource: Vec::new() };
    Config { ring_bytes: 256 << 10, ..Config::new(folder.join("spool"), source) }
}

/// The settings of one that takes over and delivers.
pub(super) fn config_with_exporter(folder: &Path) -> Config {
    let database = Destination::Sqlite {
        path: folder.join("logs.db"),
        retention: Duration::from_secs(86_400),
        retention_bytes: 1 << 30,
    };
    Config { database: Some(database), adopt: Adopt::All, ..config(folder) }
}

fn config_of(mode: Mode, folder: &Path) -> Config {
    let millis = Duration::from_millis;
    match mode {
        Mode::Steady => config(folder),
        Mode::Rotating => Config { segment_bytes: 8 << 10, sync_every: millis(5), ..config(folder) },
        Mode::Syncing => Config { sync_every: millis(1), ..config(folder) },
        Mode::Holding => Config { sync_every: millis(60_000), ..config(folder) },
        Mode::Delivering => Config { sync_every: millis(2), ..config_with_exporter(folder) },
        Mode::Adopting => Config { segment_bytes: 8 << 10, ..config_with_exporter(folder) },
    }
}

/// Does nothing in an ordinary run of the tests.
#[test]
fn runs_only_as_a_child() {
    #[expect(clippy::disallowed_methods, reason = "a child of a test is told by its environment what to do")]
    let Ok(order) = std::env::var(ORDER) else { return };
    let order: Order = serde_json::from_str(&order).unwrap();
    let pipe = File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    say(&pipe, STARTING);
    match order.program {
        Program::Recorder(mode) => {
            let (layer, guard) = telemetry::start(config_of(mode, &order.folder)).unwrap();
            tracing_subscriber::registry().with(layer).init();
            say(&pipe, RUNNING);
            emit(&order, &pipe, Some(&guard));
            let _ = guard.shutdown(LIFE_MAX);
        }
        Program::Appender => {
            let file = File::create(order.folder.join(FILE)).unwrap();
            let (writer, writes_the_rest) = tracing_appender::non_blocking(file);
            tracing_subscriber::fmt().json().with_writer(writer).init();
            emit(&order, &pipe, None);
            drop(writes_the_rest);
        }
        Program::Batch => {
            let file = Mutex::new(File::create(order.folder.join(FILE)).unwrap());
            let provider = SdkLoggerProvider::builder().with_batch_exporter(ToFile(file)).build();
            tracing_subscriber::registry().with(OpenTelemetryTracingBridge::new(&provider)).init();
            emit(&order, &pipe, None);
            provider.shutdown().unwrap();
        }
    }
}

fn say(mut pipe: &File, what: u64) {
    pipe.write_all(&what.to_le_bytes()).unwrap();
}

fn emit(order: &Order, pipe: &File, guard: Option<&Guard>) {
    let count = usize::try_from(order.numbers_max).unwrap();
    let syncing = order.program == Program::Recorder(Mode::Syncing);
    std::thread::scope(|scope| {
        for thread in 0..order.threads {
            scope.spawn(move || {
                let _span = tracing::info_span!("emitter", thread).entered();
                let first = order.process << 48 | thread << 32;
                for number in (first + 1..).take(count) {
                    while guard.is_some_and(|guard| guard.recorder().ring_fill() > FILL_MAX) {
                        std::thread::park_timeout(Duration::from_millis(1));
                    }
                    if number % CLOSED_EVERY == 0 {
                        drop(tracing::info_span!("closed", number).entered());
                    }
                    if syncing && number % 4 == 0 {
                        tracing::error!(number, "numbered");
                    } else {
                        tracing::info!(number, "numbered");
                    }
                    say(pipe, number);
                    if clock::monotonic() > LIFE_MAX {
                        return;
                    }
                }
            });
        }
    });
}

/// An exporter that is as good as one can be: what it is given is in the file when it returns.
#[derive(Debug)]
struct ToFile(Mutex<File>);

impl LogExporter for ToFile {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let mut lines = Vec::new();
        for (record, _) in batch.iter() {
            for (key, value) in record.attributes_iter().filter(|(key, _)| key.as_str() == "number") {
                let opentelemetry::logs::AnyValue::Int(number) = value else { continue };
                writeln!(lines, "{{\"fields\":{{\"{key}\":{number}}}}}").unwrap();
            }
        }
        let written = self.0.lock().unwrap().write_all(&lines);
        written.map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
    }
}
