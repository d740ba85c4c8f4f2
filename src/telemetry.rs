//! The flight recorder: a record whose macro has returned is not lost.
//!
//! `tracing` event -> [`layer`] encodes straight into OTLP bytes -> [`ring`] in mapped memory ->
//! spooler thread -> [`spool`] on disk -> one shipper thread per exporter, each with its own cursor
//! -> SQLite, RPC, OTLP, stdout, and whatever else implements [`exporter::Exporter`]. Threads are
//! supervised; emitting never blocks, panics or fails its caller (I1); telemetry never emits events
//! about itself (I2); every loss is counted: offered = accepted + refused, accepted = delivered +
//! dropped + quarantined + pending, per boot and exporter, from disk alone (I3).
//!
//! [`start`] gives a layer for the host's subscriber and a [`Guard`] that ends the recorder. It is a
//! library for any service: it reads no environment, installs nothing global, and never aborts.

mod adopt;
pub mod config;
pub mod counters;
pub mod delivery;
pub mod encode;
pub mod exporter;
mod feed;
mod guard;
pub mod layer;
mod ledger;
#[cfg(feature = "metrics-push")]
pub mod metrics_push;
pub mod otel_env;
pub mod propagation;
pub mod quiet;
pub mod record;
mod recorder;
pub mod ring;
pub mod row;
pub mod shipper;
pub mod spool;
mod spooler;

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use crossbeam_channel::bounded;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

pub use self::config::{Adopt, Config, Destination};
pub use self::guard::{DROP_LIMIT, ExporterStatus, Guard, Shutdown};
pub use self::recorder::{NewRecord, Recorder, SOURCES_MAX, SourceNo};

use self::exporter::Exporter;
use self::exporter::otlp::OtlpExporter;
use self::exporter::rpc::RpcExporter;
use self::exporter::sqlite::{Retention, SqliteExporter};
use self::exporter::stdout::StdoutExporter;
use self::feed::FolderFeed;
use self::guard::{Keeper, Slot, Watchdog, keeper, watchdog};
use self::layer::{RecorderLayer, SpanRecorder};
use self::ring::{Ring, RingConfig, RingError};
use self::shipper::{Handle, Shipper};
use self::spool::disk::{Disk, RealDisk};
use self::spool::{Folder, SpoolConfig, SpoolError};
use self::spooler::Spooler;
use crate::supervise::Intensity;
use crate::supervise::thread::Child;

/// Slot of the database exporter, whichever it is: who adopts a folder goes on where the dead
/// process was.
pub const DATABASE_SLOT: &str = "database";
/// Slot of the OTLP exporter.
pub const OTLP_SLOT: &str = "otlp";
/// Slot of the stdout exporter.
pub const STDOUT_SLOT: &str = "stdout";
/// Orders that may wait for the spooler.
const ORDERS_MAX: usize = 64;

/// Why the recorder cannot be started; nothing was left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The spool's folder cannot be used.
    #[error("the spool cannot be used")]
    Spool(#[from] SpoolError),
    /// There is no memory for the ring.
    #[error("the ring cannot be made")]
    Ring(#[from] RingError),
    /// The operating system gives no thread, or no runtime for an exporter.
    #[error("a thread of the recorder cannot be started")]
    Thread(#[from] io::Error),
    /// The ring refused its own first entry.
    #[error("the ring refuses the source: {0}")]
    Refused(ring::Refused),
}

/// Starts the recorder. The layer records events and spans of whoever installs it; the guard ends
/// the recorder when it is dropped.
///
/// # Errors
/// See [`StartError`].
pub fn start<S>(config: Config) -> Result<(impl Layer<S> + Send + Sync, Guard), StartError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let guard = run(config)?;
    let recorder = guard.recorder().clone();
    let provider = SdkTracerProvider::builder().with_span_processor(SpanRecorder::new(recorder.clone())).build();
    // Events never reach this layer: they would cost several times as much, and be kept in memory
    // until their span ends.
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("dogwatch"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|metadata| metadata.is_span()));
    Ok((RecorderLayer::new(recorder).and_then(spans), guard))
}

fn run(config: Config) -> Result<Guard, StartError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    disk.create_dir(&config.spool_dir).map_err(|error| SpoolError::io("make folder", &config.spool_dir, error))?;
    let spool =
        SpoolConfig { cap_bytes: config.spool_cap_bytes, sync_every: config.sync_every, ..SpoolConfig::default() };
    let folder = Folder::create(&config.spool_dir, config.boot, Arc::clone(&disk))?;
    let ring_config =
        RingConfig { capacity_bytes: config.ring_bytes, boot: config.boot, kernel_boot: adopt::kernel_boot() };
    let ring = Ring::create(folder.path(), &ring_config)?;
    let (orders, inbox) = bounded(ORDERS_MAX);
    let durable = Arc::new(AtomicU64::new(0));
    let recorder = Recorder::new(ring.clone(), config.source.clone(), orders.clone(), Arc::clone(&durable))
        .map_err(StartError::Refused)?;
    let adopted: Arc<Mutex<Vec<Folder>>> = Arc::default();
    let shippers: Arc<OnceLock<Arc<Vec<Slot>>>> = Arc::default();
    let (standing, on_durable) = (Arc::new(spooler::Standing::default()), Arc::clone(&shippers));
    let spooler = Spooler {
        ring: ring.clone(),
        folder: folder.clone(),
        config: spool,
        durable,
        orders: inbox,
        standing: Arc::clone(&standing),
        slots: slot_names(&config),
        adopted: Arc::clone(&adopted),
        on_durable: Box::new(move || {
            on_durable.get().into_iter().flat_map(|slots| slots.iter()).for_each(|slot| slot.handle.wake());
        }),
    };
    let body = move |pulse: &_, generation| spooler.run(pulse, generation);
    let spooler = Arc::new(Child::start("spooler", Intensity::default(), watchdog::tell_panic, body)?);
    let slots = Arc::new(slots(&config, &folder)?);
    let _ = shippers.set(Arc::clone(&slots));
    let keeper = Keeper::start(keeper::Ground {
        root: config.spool_dir,
        disk,
        config: spool,
        adopt: config.adopt,
        own: folder.clone(),
        ring: ring.clone(),
        recorder: recorder.clone(),
        slots: Arc::clone(&slots),
        adopted,
        trouble: Mutex::default(),
    })?;
    let watchdog = Watchdog::start(watchdog::View {
        recorder: recorder.clone(),
        spooler: Arc::clone(&spooler),
        standing: Arc::clone(&standing),
        slots: Arc::clone(&slots),
        heartbeat_every: config.heartbeat_every,
    })?;
    Ok(Guard { recorder, ring, folder, orders, spooler, standing, slots, keeper, watchdog, ended: false })
}

/// The slots that there will be.
fn slot_names(config: &Config) -> Vec<&'static str> {
    let database = config.database.as_ref().map(|_| DATABASE_SLOT);
    let otlp = config.otlp.as_ref().map(|_| OTLP_SLOT);
    database.into_iter().chain(otlp).chain(config.stdout.then_some(STDOUT_SLOT)).collect()
}

/// One shipper per exporter, fed from the own folder.
fn slots(config: &Config, folder: &Folder) -> Result<Vec<Slot>, StartError> {
    let (usual, mut exporters) = (shipper::Config::default(), Vec::<(_, Box<dyn Exporter>, _)>::new());
    match &config.database {
        Some(Destination::Sqlite { path, retention, retention_bytes }) => {
            let retention = Retention { keep: *retention, bytes_max: *retention_bytes };
            exporters.push((DATABASE_SLOT, Box::new(SqliteExporter::new(path, retention)?), usual));
        }
        Some(Destination::Rpc(rpc)) => {
            exporters.push((DATABASE_SLOT, Box::new(RpcExporter::new(rpc.clone())?), usual));
        }
        None => {}
    }
    if let Some(otlp) = &config.otlp {
        let numbers = shipper::Config::otlp(otlp.batch_max, otlp.linger, otlp.deadline());
        exporters.push((OTLP_SLOT, Box::new(OtlpExporter::new(otlp.clone())?), numbers));
    }
    if config.stdout {
        exporters.push((STDOUT_SLOT, Box::new(StdoutExporter::new(io::stdout())?), usual));
    }
    let mut slots = Vec::new();
    for (name, exporter, numbers) in exporters {
        let feed = FolderFeed::open(folder, name, false)?;
        let shipper = Shipper::new(exporter, vec![Box::new(feed)], numbers);
        slots.push(Slot { name, handle: Handle::start(shipper, watchdog::tell_panic)? });
    }
    Ok(slots)
}
