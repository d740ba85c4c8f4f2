//! Who is measured: how each is started, told, drained, and asked what has arrived.

use std::cell::RefCell;
use std::error::Error;
use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use dogwatch::clock::monotonic;
use dogwatch::telemetry::encode::{LogWriter, Value};
use dogwatch::telemetry::record::Source;
use dogwatch::telemetry::{self, Config, Guard};
use fastrace::collector::{Reporter, SpanRecord};
use fastrace::local::LocalParentGuard;
use fastrace::prelude::{Event as FastEvent, LocalSpan, Span, SpanContext};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{BatchConfigBuilder, BatchLogProcessor, LogBatch, LogExporter, SdkLoggerProvider};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Longest wait for a contender to write what it holds.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
const TASK: &str = "0b6e8d54-7f2b-4f0e-9c57-3f8c1d2a9e41";

/// One who is measured.
pub(crate) struct Contender {
    /// Its argument on the command line.
    pub(crate) name: &'static str,
    /// What it is called in the table.
    pub(crate) title: &'static str,
    pub(crate) start: fn() -> Result<Running, Box<dyn Error>>,
}

/// One that has been started.
pub(crate) struct Running {
    /// Emits one event.
    pub(crate) emit: fn(u64),
    /// Waits until what was emitted has been written.
    pub(crate) drain: Box<dyn Fn()>,
    /// Ends it and says how many events have arrived.
    pub(crate) end: Box<dyn FnOnce() -> u64>,
}

pub(crate) const CONTENDERS: &[Contender] = &[
    Contender { name: "encode", title: "bare encode into 256 B", start: encode },
    Contender { name: "dogwatch", title: "dogwatch", start: dogwatch },
    Contender { name: "fastrace", title: "fastrace event", start: fast },
    Contender { name: "batch", title: "OpenTelemetry batch processor", start: || batch(None) },
    Contender { name: "holds", title: "the same, with a queue that holds the burst", start: || batch(Some(QUEUE)) },
    Contender { name: "appender", title: "tracing-appender, JSON, non-blocking", start: appender },
];

pub(crate) fn emit(number: u64) {
    tracing::info!(task = TASK, attempt = number, seconds = 1.25, cached = true, "task finished");
}

/// What is common to all: tracing, and the writing of the bytes.
struct Encode;

thread_local! {
    static BUFFER: RefCell<(Vec<u8>, String)> = RefCell::new((Vec::with_capacity(256), String::new()));
}

struct Fields<'a, 'b>(&'a mut LogWriter<'b>, &'a mut String);

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
        self.1.clear();
        let _ = write!(self.1, "{value:?}");
        self.0.body(self.1);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.attribute(field.name(), Value::Str(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.attribute(field.name(), Value::Int(value.cast_signed()));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.attribute(field.name(), Value::Double(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.attribute(field.name(), Value::Bool(value));
    }
}

impl<S: Subscriber> Layer<S> for Encode {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        BUFFER.with_borrow_mut(|(bytes, text)| {
            let mut writer = LogWriter::begin(bytes, 1, 1, 9, "INFO");
            event.record(&mut Fields(&mut writer, text));
            writer.end();
            std::hint::black_box(bytes);
        });
    }
}

fn encode() -> Result<Running, Box<dyn Error>> {
    tracing_subscriber::registry().with(Encode).init();
    Ok(Running { emit, drain: Box::new(|| ()), end: Box::new(|| u64::MAX) })
}

fn dogwatch() -> Result<Running, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let source = Source { source_type: "external".into(), source_id: "bench".into(), resource: Vec::new() };
    let (layer, guard) = telemetry::start(Config::new(folder.path(), source))?;
    tracing_subscriber::registry().with(layer).init();
    let guard: Arc<Mutex<Option<Guard>>> = Arc::new(Mutex::new(Some(guard)));
    let draining = Arc::clone(&guard);
    Ok(Running {
        emit,
        drain: Box::new(move || {
            let guard = draining.lock().unwrap_or_else(|broken| broken.into_inner());
            assert!(guard.as_ref().is_some_and(|guard| guard.flush(LIMIT)), "the disk is too slow");
        }),
        end: Box::new(move || {
            let guard = guard.lock().unwrap_or_else(|broken| broken.into_inner()).take();
            let durable = guard.map_or(0, |guard| guard.shutdown(LIMIT).durable);
            drop(folder);
            durable
        }),
    })
}

/// Counts the lines that the appender's thread writes.
struct Lines(File, Arc<AtomicU64>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.fetch_add(bytes[..written].iter().filter(|byte| **byte == b'\n').count() as u64, SeqCst);
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn appender() -> Result<Running, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let arrived = Arc::new(AtomicU64::new(0));
    let lines = Lines(File::create(folder.path().join("log"))?, Arc::clone(&arrived));
    let (writer, writing) = tracing_appender::non_blocking(lines);
    tracing_subscriber::fmt().json().with_writer(writer).init();
    let seen = Arc::clone(&arrived);
    Ok(Running {
        emit,
        drain: Box::new(move || {
            // Its queue holds more than a burst; it has none left when it writes nothing more.
            let (mut before, until) = (u64::MAX, monotonic() + LIMIT);
            while before != seen.load(SeqCst) && monotonic() < until {
                before = seen.load(SeqCst);
                std::thread::park_timeout(Duration::from_millis(50));
            }
        }),
        end: Box::new(move || {
            drop(writing);
            drop(folder);
            arrived.load(SeqCst)
        }),
    })
}

#[derive(Debug)]
struct Count(Arc<AtomicU64>);

impl LogExporter for Count {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.0.fetch_add(batch.iter().count() as u64, SeqCst);
        Ok(())
    }
}

/// Records in a queue that a burst does not fill.
const QUEUE: usize = 1 << 17;

fn batch(queue: Option<usize>) -> Result<Running, Box<dyn Error>> {
    let arrived = Arc::new(AtomicU64::new(0));
    let usual = BatchConfigBuilder::default();
    let config = match queue {
        Some(queue) => usual.with_max_queue_size(queue).build(),
        None => usual.build(),
    };
    let processor = BatchLogProcessor::builder(Count(Arc::clone(&arrived))).with_batch_config(config).build();
    let provider = SdkLoggerProvider::builder().with_log_processor(processor).build();
    tracing_subscriber::registry().with(OpenTelemetryTracingBridge::new(&provider)).init();
    let draining = provider.clone();
    Ok(Running {
        emit,
        drain: Box::new(move || drop(draining.force_flush())),
        end: Box::new(move || {
            drop(provider.shutdown());
            arrived.load(SeqCst)
        }),
    })
}

impl Reporter for Count {
    fn report(&mut self, spans: Vec<SpanRecord>) {
        self.0.fetch_add(spans.iter().map(|span| span.events.len() as u64).sum(), SeqCst);
    }
}

/// Events of one fastrace span: it keeps them until the span ends, and not without limit.
const EVENTS_OF_SPAN: u64 = 50;

fn emit_fast(number: u64) {
    thread_local! {
        static SPAN: RefCell<Option<(LocalParentGuard, Span)>> = const { RefCell::new(None) };
    }
    SPAN.with_borrow_mut(|span| {
        if number.is_multiple_of(EVENTS_OF_SPAN) {
            let root = Span::root("burst", SpanContext::random());
            *span = Some((root.set_local_parent(), root));
        }
        LocalSpan::add_event(FastEvent::new("task finished").with_properties(|| {
            let properties: [(Text, Text); 4] = [
                ("task".into(), TASK.into()),
                ("attempt".into(), number.to_string().into()),
                ("seconds".into(), 1.25.to_string().into()),
                ("cached".into(), "true".into()),
            ];
            properties
        }));
        if number % EVENTS_OF_SPAN == EVENTS_OF_SPAN - 1 {
            *span = None;
        }
    });
}

type Text = std::borrow::Cow<'static, str>;

fn fast() -> Result<Running, Box<dyn Error>> {
    let arrived = Arc::new(AtomicU64::new(0));
    fastrace::set_reporter(Count(Arc::clone(&arrived)), fastrace::collector::Config::default());
    Ok(Running {
        emit: emit_fast,
        drain: Box::new(fastrace::flush),
        end: Box::new(move || {
            fastrace::flush();
            arrived.load(SeqCst)
        }),
    })
}
