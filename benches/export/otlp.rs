//! Spool -> OTLP/HTTP with a receiver that discards: records a second, and our CPU a record.
//!
//! A backlog of records with four attributes is written to a spool; then a recorder with the OTLP
//! exporter takes it over and delivers it. CPU is this process's, user and system (getrusage),
//! from the start of that recorder to the last receipt; reading the disk is part of it.
//!
//! Beside it Rotel, where `ROTEL_AGENT` names its binary (it is inside the PyPI package `rotel`:
//! `pip download rotel`, unpack the wheel, `rotel/rotel-agent`): it gets as many records (smaller
//! ones, without attributes) as OTLP requests over HTTP and forwards them to the same kind of receiver. Rotel has them in memory only, and
//! packs them with gzip whatever it is told: so there is a round of ours with gzip, too.

use std::error::Error;
use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dogwatch::clock::{self, monotonic};
use dogwatch::telemetry::exporter::Exporter as _;
use dogwatch::telemetry::exporter::otlp::{Compression, Endpoint, OtlpConfig, OtlpExporter};
use dogwatch::telemetry::record::{Kind, Level, Source, Stored};
use dogwatch::telemetry::{self, Adopt, Config, NewRecord};
use nix::sys::resource::{UsageWho, getrusage};
use tracing_subscriber::Registry;
use uuid::Uuid;

use super::discard::Receiver;

/// Records of a round.
const RECORDS: u64 = 1_000_000;
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(120);
/// How long a batch that is not full waits: as with Rotel.
const LINGER: Duration = Duration::from_millis(200);
/// Records of a request to Rotel.
const REQUEST: u64 = 8_192;

/// What a round gave.
#[derive(Clone)]
struct Round {
    per_second: f64,
    cpu_micros: f64,
}

/// The table, as text.
///
/// # Errors
/// The machine has no room, or a contender does not end.
pub(crate) fn run() -> Result<String, Box<dyn Error>> {
    let rotel = dogwatch::config::environment("ROTEL_AGENT");
    let names = ["dogwatch, spool -> OTLP/HTTP", "the same, gzip", "rotel, memory -> OTLP/HTTP, gzip"];
    let mut all: Vec<(&str, Vec<Round>)> = names.map(|name| (name, Vec::new())).to_vec();
    all.truncate(if rotel.is_some() { 3 } else { 2 });
    for _ in 0..ROUNDS {
        all[0].1.push(dogwatch(Compression::None)?);
        all[1].1.push(dogwatch(Compression::Gzip)?);
        if let Some(agent) = &rotel {
            all[2].1.push(rotel_round(Path::new(agent))?);
        }
    }
    let mut out = format!("\n{RECORDS} records with 4 attributes to a receiver that discards\n\n");
    writeln!(out, "| what | records/s | CPU us a record |\n|---|---:|---:|")?;
    for (name, rounds) in &mut all {
        rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        let Round { per_second, cpu_micros } = &rounds[rounds.len() / 2];
        writeln!(out, "| {name} | {per_second:.0} | {cpu_micros:.2} |")?;
    }
    Ok(out)
}

fn source() -> Source {
    let resource = vec![("service.name".to_owned(), "bench".to_owned())];
    Source { source_type: "external".into(), source_id: "bench".into(), resource }
}

fn otlp(url: &str, compression: Compression) -> Result<OtlpConfig, Box<dyn Error>> {
    let endpoint = Endpoint {
        url: format!("{url}/v1/logs").parse()?,
        headers: Vec::new(),
        timeout: Duration::from_secs(10),
        compression,
        certificate: None,
        identity: None,
    };
    Ok(OtlpConfig { logs: Some(endpoint), traces: None, batch_max: 8_192, linger: LINGER })
}

fn dogwatch(compression: Compression) -> Result<Round, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    backlog(folder.path())?;
    let receiver = Receiver::start()?;
    let (began, cpu) = (monotonic(), cpu()?);
    let config = Config {
        otlp: Some(otlp(&receiver.url, compression)?),
        adopt: Adopt::All,
        ..Config::new(folder.path(), source())
    };
    let (_, guard) = telemetry::start::<Registry>(config)?;
    wait(|| Ok(receiver.records()? >= RECORDS))?;
    let (took, cpu) = (monotonic() - began, self::cpu()? - cpu);
    let _ = guard.shutdown(LIMIT);
    Ok(round(took, cpu))
}

/// Writes the records to a spool whose process has ended.
fn backlog(folder: &Path) -> Result<(), Box<dyn Error>> {
    let (_, guard) = telemetry::start::<Registry>(Config::new(folder, source()))?;
    let recorder = guard.recorder();
    let source = recorder.intern(&source()).map_err(|refused| refused.to_string())?;
    let values = [serde_json::json!("gpu-20261101_100000-0123abcd"), 638.into(), true.into(), 0.25.into()];
    let attributes: Vec<_> = ["worker_id", "cycle", "ready", "seconds"].into_iter().zip(&values).collect();
    for number in 0..RECORDS {
        let body = format!("task {number} was claimed");
        let time = clock::now();
        let record = NewRecord { time, level: Level::Info, body: &body, attributes: &attributes, event_name: None };
        while recorder.ring_fill() > 0.5 {
            std::thread::yield_now();
        }
        recorder.emit(source, &record).map_err(|refused| refused.to_string())?;
    }
    let ended = guard.shutdown(LIMIT);
    if ended.lost > 0 || ended.durable < RECORDS {
        return Err(format!("the backlog is not whole: {ended}").into());
    }
    Ok(())
}

/// A running agent; killed at the end.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn rotel_round(agent: &Path) -> Result<Round, Box<dyn Error>> {
    let (receiver, folder) = (Receiver::start()?, tempfile::tempdir()?);
    let (http, grpc) = (free_port()?, free_port()?);
    let mut command = Command::new(agent);
    command
        .args(["start", "--exporter", "otlp", "--otlp-exporter-protocol", "http"])
        .args(["--otlp-exporter-endpoint", &receiver.url])
        .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
        .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
        .arg("--pid-file")
        .arg(folder.path().join("pid"));
    let agent = Agent(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    wait(|| Ok(TcpStream::connect(("127.0.0.1", http)).is_ok()))?;
    let batch = batch();
    let mut sender = OtlpExporter::new(otlp(&format!("http://127.0.0.1:{http}"), Compression::None)?)?;
    let (began, cpu) = (monotonic(), ticks(agent.0.id())?);
    for _ in 0..RECORDS.div_ceil(REQUEST) {
        sender.export(&batch, clock::now(), LIMIT)?;
    }
    wait(|| Ok(receiver.records()? >= RECORDS))?;
    Ok(round(monotonic() - began, ticks(agent.0.id())? - cpu))
}

/// One request's records, as the backlog has them.
fn batch() -> Vec<Stored> {
    let source = std::sync::Arc::new(source());
    let attribute = |key: &str, value: &str| format!("{key}={value} ");
    let text: String = attribute("worker_id", "gpu-20261101_100000-0123abcd") + &attribute("cycle", "638");
    let body = opentelemetry_proto::tonic::common::v1::AnyValue {
        value: Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text)),
    };
    let record = opentelemetry_proto::tonic::logs::v1::LogRecord {
        time_unix_nano: 1_790_000_000_000_000_000,
        severity_number: 9,
        severity_text: "INFO".to_owned(),
        body: Some(body),
        ..Default::default()
    };
    let payload = prost::Message::encode_to_vec(&record);
    let stored = |seq| Stored {
        seq,
        kind: Kind::Log,
        level: Level::Info,
        source: std::sync::Arc::clone(&source),
        boot: Uuid::nil(),
        payload: payload.clone(),
    };
    (0..REQUEST).map(stored).collect()
}

fn round(took: Duration, cpu: Duration) -> Round {
    Round { per_second: RECORDS as f64 / took.as_secs_f64(), cpu_micros: cpu.as_secs_f64() * 1e6 / RECORDS as f64 }
}

/// CPU time of this process so far.
fn cpu() -> Result<Duration, Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    Ok(Duration::from_micros(u64::try_from(micros(usage.user_time()) + micros(usage.system_time()))?))
}

/// CPU time of another process so far, to a hundredth of a second.
fn ticks(pid: u32) -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn wait(done: impl Fn() -> Result<bool, Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let until = monotonic() + LIMIT;
    while !done()? {
        if monotonic() > until {
            return Err("a contender does not end".into());
        }
        let _ = crossbeam_channel::after(Duration::from_millis(20)).recv();
    }
    Ok(())
}

fn free_port() -> Result<u16, Box<dyn Error>> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
