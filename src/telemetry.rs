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
//!
//! ```
//! use std::time::Duration;
//!
//! use dogwatch::telemetry::record::Source;
//! use dogwatch::telemetry::{self, Adopt, Config, Destination};
//! use tracing_subscriber::layer::SubscriberExt as _;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let source = Source {
//!     source_type: "external".to_owned(),
//!     source_id: "shop-1".to_owned(),
//!     resource: vec![("service.name".to_owned(), "shop".to_owned())],
//! };
//! let (layer, guard) = telemetry::start(Config {
//!     database: Some(Destination::Sqlite {
//!         path: folder.path().join("logs.db"),
//!         retention: Duration::from_secs(7 * 86_400),
//!         retention_bytes: 1 << 30,
//!     }),
//!     adopt: Adopt::All,
//!     ..Config::new(folder.path().join("spool"), source)
//! })?;
//! tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
//!     tracing::info!(order = 7, "paid"); // from here on a SIGKILL cannot take it
//! });
//! let end = guard.shutdown(Duration::from_secs(10));
//! assert_eq!((end.delivered, end.pending, end.lost), (end.durable, 0, 0));
//! # Ok(())
//! # }
//! ```

mod adopt;
mod again;
pub mod config;
pub mod counters;
pub mod delivery;
pub mod encode;
pub mod exporter;
pub mod exporters_file;
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
#[cfg(test)]
mod tests;
mod wiring;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

use crossbeam_channel::{Sender, bounded};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

pub use self::config::{Adopt, Config, Destination};
pub use self::guard::{DROP_LIMIT, ExporterStatus, Guard, Shutdown, Status, ThreadStatus};
pub use self::recorder::{NewRecord, Recorder, SOURCES_MAX, SourceNo};

use self::exporter::Exporter;
use self::exporter::otlp::OtlpExporter;
use self::exporter::postgres::PostgresExporter;
use self::exporter::rpc::RpcExporter;
use self::exporter::sqlite::{Retention, SqliteExporter};
use self::exporter::stdout::StdoutExporter;
use self::exporter::supabase::SupabaseExporter;
use self::feed::FolderFeed;
use self::guard::{Keeper, Slot, Voice, Watchdog, keeper, watchdog};
use self::layer::{RecorderLayer, SpanRecorder};
use self::ring::{Ring, RingConfig, RingError};
use self::shipper::{Handle, Shipper};
use self::spool::{Folder, SpoolConfig, SpoolError};
use self::spooler::Spooler;
use self::wiring::Wiring;
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
/// A segment is at most this part of the spool's cap.
const SEGMENTS_MIN: u64 = 16;
/// And no smaller than this, bytes.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

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
    run_wired(config, Wiring::default())
}

/// Limits of the spool: a segment is small beside the cap, since whole segments are dropped there.
fn spool_config(config: &Config, segment_bytes: Option<u64>) -> SpoolConfig {
    let bounded = (config.spool_cap_bytes / SEGMENTS_MIN).max(SEGMENT_BYTES_MIN).min(config.segment_bytes);
    SpoolConfig {
        cap_bytes: config.spool_cap_bytes,
        sync_every: config.sync_every,
        segment_bytes: segment_bytes.unwrap_or(bounded),
        ..SpoolConfig::default()
    }
}

fn run_wired(config: Config, mut wiring: Wiring) -> Result<Guard, StartError> {
    let (disk, intensity) = (Arc::clone(&wiring.disk), wiring.intensity);
    disk.create_dir(&config.spool_dir).map_err(|error| SpoolError::io("make folder", &config.spool_dir, error))?;
    let spool = spool_config(&config, wiring.segment_bytes);
    let folder = Folder::create(&config.spool_dir, config.boot, disk)?;
    let ring_config =
        RingConfig { capacity_bytes: config.ring_bytes, boot: config.boot, kernel_boot: adopt::kernel_boot() };
    let ring = Ring::create(folder.path(), &ring_config)?;
    let (orders, inbox) = bounded(ORDERS_MAX);
    let (durable, low) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let recorder =
        Recorder::new(ring.clone(), config.source.clone(), orders.clone(), Arc::clone(&durable), Arc::clone(&low))
            .map_err(StartError::Refused)?;
    let exporters = all_exporters(&config, std::mem::take(&mut wiring.exporters), wiring.shipping)?;
    let adopted: Arc<Mutex<Vec<Folder>>> = Arc::default();
    let shippers: Arc<OnceLock<Arc<Vec<Slot>>>> = Arc::default();
    let (standing, on_durable) = (Arc::new(spooler::Standing::default()), Arc::clone(&shippers));
    let work = Arc::new(Spooler {
        ring: ring.clone(),
        folder: folder.clone(),
        config: spool,
        durable,
        orders: inbox,
        standing: Arc::clone(&standing),
        slots: exporters.iter().map(|(name, _, _)| *name).collect(),
        adopted: Arc::clone(&adopted),
        on_durable: Box::new(move || {
            on_durable.get().into_iter().flat_map(|slots| slots.iter()).for_each(|slot| slot.handle.wake());
        }),
        low,
        out: Arc::clone(&wiring.out),
        fuse: wiring.fuse.clone(),
    });
    let at_work = Arc::clone(&work);
    let body = move |pulse: &_, generation| at_work.run(pulse, generation);
    let spooler = Arc::new(Child::start("spooler", intensity, watchdog::tell_panic, body)?);
    let again = |slot| again::Again {
        slot,
        config: config.clone(),
        make: wiring.make_again.clone(),
        own: folder.clone(),
        adopted: Arc::clone(&adopted),
        fuse: wiring.fuse.clone(),
    };
    let slots = Arc::new(slots(exporters, intensity, again)?);
    let _ = shippers.set(Arc::clone(&slots));
    let voice = Voice::new(recorder.clone());
    let parts = Parts {
        config,
        wiring,
        spool,
        folder,
        ring,
        recorder,
        orders,
        voice,
        adopted,
        slots,
        work,
        spooler,
        standing,
    };
    parts.watch()
}

/// What the keeper, the watchdog and the guard are made of.
struct Parts {
    config: Config,
    wiring: Wiring,
    spool: SpoolConfig,
    folder: Folder,
    ring: Ring,
    recorder: Recorder,
    orders: Sender<spooler::Order>,
    voice: Voice,
    adopted: Arc<Mutex<Vec<Folder>>>,
    slots: Arc<Vec<Slot>>,
    work: Arc<Spooler>,
    spooler: Arc<Child>,
    standing: Arc<spooler::Standing>,
}

impl Parts {
    /// Starts the keeper and the watchdog.
    fn watch(self) -> Result<Guard, StartError> {
        let Parts { config, wiring, folder, ring, voice, slots, spooler, standing, .. } = self;
        let intensity = wiring.intensity;
        let keeping: Arc<Mutex<Vec<String>>> = Arc::default();
        let stand_in: Arc<OnceLock<Child>> = Arc::default();
        let half_written: Arc<AtomicU64> = Arc::default();
        let ground = keeper::Ground {
            root: config.spool_dir,
            disk: wiring.disk,
            config: self.spool,
            adopt: config.adopt,
            keep_every: wiring.keep_every,
            fuse: wiring.fuse.clone(),
            own: folder.clone(),
            ring: ring.clone(),
            voice: voice.clone(),
            slots: Arc::clone(&slots),
            adopted: self.adopted,
            unfed: Mutex::default(),
            half_written: Arc::clone(&half_written),
            trouble: Arc::clone(&keeping),
            said: Mutex::default(),
        };
        let keeper = Keeper::start(ground, intensity)?;
        let view = watchdog::View {
            voice: voice.clone(),
            spooler: Arc::clone(&spooler),
            stand_in: watchdog::StandIn { work: self.work, intensity, child: Arc::clone(&stand_in) },
            standing: Arc::clone(&standing),
            slots: Arc::clone(&slots),
            keeper: keeper.child(),
            half_written,
            heartbeat_every: config.heartbeat_every,
            segment_bytes: self.spool.segment_bytes,
            limits: watchdog::Limits {
                turn: wiring.watch_every,
                stall: wiring.stall_limit,
                tell_lost_every: wiring.tell_lost_every,
            },
            fuse: wiring.fuse,
            memory: Mutex::default(),
        };
        let watchdog = Watchdog::start(view, intensity)?;
        let (recorder, orders) = (self.recorder, self.orders);
        Ok(Guard {
            recorder,
            ring,
            folder,
            orders,
            spooler,
            stand_in,
            standing,
            slots,
            keeper,
            watchdog,
            voice,
            keeping,
            spans_limit: guard::SPANS_LIMIT,
            ended: false,
        })
    }
}

/// Exporters with the names of their slots.
pub type BySlot = Vec<(&'static str, Box<dyn Exporter>)>;

/// The exporters that the settings ask for, by slot, outside of any recorder: for whoever delivers
/// single records by hand.
///
/// # Errors
/// The operating system gives no runtime.
pub fn exporters(config: &Config) -> Result<BySlot, StartError> {
    let all = all_exporters(config, Vec::new(), shipper::Config::default())?;
    Ok(all.into_iter().map(|(slot, exporter, _)| (slot, exporter)).collect())
}

/// An exporter, its slot, and the numbers that it is shipped by.
type Named = (&'static str, Box<dyn Exporter>, shipper::Config);

/// The exporters that the settings ask for, and `more`.
fn all_exporters(
    config: &Config,
    more: Vec<(&'static str, Box<dyn Exporter>)>,
    usual: shipper::Config,
) -> Result<Vec<Named>, StartError> {
    let mut exporters: Vec<Named> = Vec::new();
    match &config.database {
        Some(Destination::Sqlite { path, retention, retention_bytes }) => {
            let retention = Retention { keep: *retention, bytes_max: *retention_bytes };
            exporters.push((DATABASE_SLOT, Box::new(SqliteExporter::new(path, retention)?), usual));
        }
        Some(Destination::Postgres(address)) => {
            let exporter = PostgresExporter::new(address.clone())?;
            exporters.push((DATABASE_SLOT, Box::new(exporter), shipper::Config::postgres()));
        }
        Some(Destination::Rpc(rpc)) => {
            exporters.push((DATABASE_SLOT, Box::new(RpcExporter::new(rpc.clone())?), usual));
        }
        Some(Destination::Supabase(project)) => {
            let exporter = SupabaseExporter::new(project.clone())?;
            exporters.push((DATABASE_SLOT, Box::new(exporter), shipper::Config::remote()));
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
    exporters.extend(more.into_iter().map(|(name, exporter)| (name, exporter, usual)));
    Ok(exporters)
}

/// One shipper per exporter, fed from the own folder; `again` makes one that hangs anew.
fn slots(
    exporters: Vec<Named>,
    intensity: Intensity,
    again: impl Fn(&'static str) -> again::Again,
) -> Result<Vec<Slot>, StartError> {
    let mut slots = Vec::new();
    for (name, exporter, numbers) in exporters {
        let again = again(name);
        let feed = FolderFeed::open(&again.own, name, false, again.fuse.clone())?;
        let shipper = Shipper::new(exporter, vec![Box::new(feed)], numbers);
        let handle = Handle::start(shipper, Some(Box::new(again)), intensity, watchdog::tell_panic)?;
        slots.push(Slot { name, handle });
    }
    Ok(slots)
}
