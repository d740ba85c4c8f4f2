//! From values to a [`Config`]: defaults, and what one value means for another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::values::{Origin, Values};
use super::{Config, RecorderSettings, WatchSettings};
use crate::error::BadInput;
use crate::fleet::cell::{Cell, Offer};
use crate::fleet::policy::{LOG_SILENCE_SECONDS_LIVE, Policy, PolicyLive};
use crate::orchestrator::LeaseConfig;
use crate::telemetry::exporter::postgres::Address;
use crate::telemetry::exporter::supabase::SupabaseConfig;
use crate::telemetry::record::Level;

/// Whose defaults apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Production: the defaults that operators know.
    Run,
    /// One machine: starts fast, grows to its cores, shrinks to nothing.
    Up,
    /// The one-minute story: everything fast; the environment is not asked.
    Demo,
}

/// The GPU type that operators know.
const DEFAULT_GPU: &str = "NVIDIA GeForce RTX 4090";
/// Largest TOML file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Config {
    /// Reads and checks everything. `flags` are (setting name, value) pairs.
    ///
    /// # Errors
    /// The first thing that is wrong, with its remedy.
    pub fn load(profile: Profile, flags: &[(&'static str, String)]) -> Result<Config, BadInput> {
        if profile == Profile::Demo {
            return Config::from_values(profile, Values::read(flags, &|_| None, None)?);
        }
        let file = match environment("DOGWATCH_CONFIG").filter(|path| !path.is_empty()) {
            Some(path) => Some(read_file(Path::new(&path))?),
            None => None,
        };
        Config::from_values(profile, Values::read(flags, &environment, file)?)
    }

    /// The meaning of `values` under `profile`.
    ///
    /// # Errors
    /// Values that contradict each other, or no place for the data folder.
    pub fn from_values(profile: Profile, values: Values) -> Result<Config, BadInput> {
        let policy = policy(profile, &values);
        if policy.min_workers > policy.max_workers && policy.max_workers > 0 {
            return Err(BadInput::new(
                format!("MIN_ACTIVE_GPUS {} is above MAX_ACTIVE_GPUS {}", policy.min_workers, policy.max_workers),
                "lower the one or raise the other",
            ));
        }
        let loopback = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let listen = values.address("DOGWATCH_LISTEN").unwrap_or(loopback(7_411));
        let token = values.secret("DOGWATCH_TOKEN");
        let watch_listen = values.address("DOGWATCH_WATCH_LISTEN").unwrap_or(loopback(7_412));
        for address in [listen, watch_listen] {
            if !address.ip().is_loopback() && token.is_none() {
                return Err(BadInput::new(
                    format!("{address} is not loopback and DOGWATCH_TOKEN is not set"),
                    "set DOGWATCH_TOKEN to a long random text, or listen on 127.0.0.1",
                ));
            }
        }
        let database =
            values.text("DATABASE_URL").map(|url| Address::parse(&url)).transpose().map_err(|error| {
                BadInput::new(format!("DATABASE_URL is {error}"), "correct it, or unset it to use the data folder")
            })?;
        let data_dir = match values.text("DOGWATCH_DATA_DIR") {
            Some(path) => PathBuf::from(path),
            None => default_data_dir()?,
        };
        Ok(Config {
            data_dir,
            fleet: values.text("DOGWATCH_FLEET").unwrap_or_else(|| "dogwatch".into()),
            env: values.text("DOGWATCH_ENV").unwrap_or_else(|| "local".into()),
            instance: values
                .text("ORCHESTRATOR_INSTANCE_ID")
                .unwrap_or_else(|| format!("orchestrator-{}", hostname())),
            listen,
            token,
            lease: lease(profile, &values)?,
            database,
            recorder: recorder(profile, &values),
            supabase: supabase(&values)?,
            watch: watch(profile, &values, watch_listen),
            hash: hash(&policy, &values),
            policy,
            values,
        })
    }
}

fn watch(profile: Profile, values: &Values, listen: std::net::SocketAddr) -> WatchSettings {
    let demo = profile == Profile::Demo;
    let or = |name, default| values.duration(name).unwrap_or(default);
    WatchSettings {
        listen,
        every: or("DOGWATCH_WATCH_SECONDS", Duration::from_millis(if demo { 500 } else { 5_000 })),
        webhook: values.secret("DOGWATCH_WEBHOOK_URL"),
        alertmanager: values.secret("DOGWATCH_ALERTMANAGER_URL"),
        deadman: values.secret("DOGWATCH_DEADMAN_URL"),
        deadman_every: or("DOGWATCH_DEADMAN_SECONDS", Duration::from_secs(30)),
        canary_every: or("DOGWATCH_CANARY_SECONDS", Duration::from_secs(if demo { 2 } else { 20 })),
    }
}

fn policy(profile: Profile, values: &Values) -> Policy {
    let base = Policy::default();
    let count =
        |name, default: u32| values.whole(name).and_then(|number| u32::try_from(number).ok()).unwrap_or(default);
    let seconds = |name, default: u64| values.duration(name).map_or(default, |time| time.as_secs());
    let (min, max, user_limit) = match profile {
        Profile::Run => (base.min_workers, base.max_workers, base.user_task_limit),
        Profile::Up => (0, cores().max(2), 1_000),
        Profile::Demo => (0, 3, 1_000),
    };
    let demo = profile == Profile::Demo;
    Policy {
        min_workers: count("MIN_ACTIVE_GPUS", min),
        max_workers: count("MAX_ACTIVE_GPUS", max),
        idle_buffer: count("MACHINES_TO_KEEP_IDLE", base.idle_buffer),
        user_task_limit: count("DOGWATCH_USER_TASK_LIMIT", user_limit),
        failure_rate_max: values.share("MAX_WORKER_FAILURE_RATE").unwrap_or(base.failure_rate_max),
        failure_window_seconds: values
            .whole("FAILURE_WINDOW_MINUTES")
            .map_or(base.failure_window_seconds, |minutes| minutes * 60),
        failure_rate_min_workers: count("MIN_WORKERS_FOR_RATE_CHECK", base.failure_rate_min_workers),
        heartbeat_timeout_seconds: seconds(
            "DOGWATCH_HEARTBEAT_LIMIT_SECONDS",
            if demo { 5 } else { base.heartbeat_timeout_seconds },
        ),
        idle_timeout_seconds: seconds(
            "DOGWATCH_IDLE_LIMIT_SECONDS",
            match profile {
                Profile::Run => base.idle_timeout_seconds,
                Profile::Up => 60,
                Profile::Demo => 4,
            },
        ),
        log_silence_seconds: seconds(
            "DOGWATCH_LOG_SILENCE_SECONDS",
            if demo { 6 } else { LOG_SILENCE_SECONDS_LIVE },
        ),
        live: Some(policy_live(profile, values)),
    }
}

fn policy_live(profile: Profile, values: &Values) -> PolicyLive {
    let base = PolicyLive::default();
    let millis = |name, default: u64| {
        values.duration(name).map_or(default, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    };
    let seconds = |name, default: u64| values.duration(name).map_or(default, |time| time.as_secs());
    let count =
        |name, default: u32| values.whole(name).and_then(|number| u32::try_from(number).ok()).unwrap_or(default);
    let (cycle, beat, claim) = match profile {
        Profile::Run => (base.cycle_ms, base.beat_ms, base.claim_poll_ms),
        Profile::Up => (2_000, 5_000, 500),
        Profile::Demo => (1_000, 1_000, 200),
    };
    PolicyLive {
        cycle_ms: millis("ORCHESTRATOR_POLL_SEC", cycle),
        beat_ms: millis("DOGWATCH_BEAT_SECONDS", beat),
        claim_poll_ms: millis("DOGWATCH_CLAIM_SECONDS", claim),
        dead_man_seconds: seconds("DOGWATCH_DEAD_MAN_SECONDS", base.dead_man_seconds),
        spawning_timeout_seconds: seconds("SPAWNING_TIMEOUT_SEC", base.spawning_timeout_seconds),
        startup_timeout_seconds: seconds("STARTUP_GRACE_PERIOD_SEC", base.startup_timeout_seconds),
        overcapacity_idle_timeout_seconds: seconds(
            "GPU_OVERCAPACITY_IDLE_TIMEOUT_SEC",
            if profile == Profile::Demo { 2 } else { base.overcapacity_idle_timeout_seconds },
        ),
        progress_timeout_seconds: seconds("TASK_STUCK_TIMEOUT_SEC", base.progress_timeout_seconds),
        budget_usd_per_hour: values.share("DOGWATCH_BUDGET_USD_PER_HOUR"),
        budget_usd_per_day: values.share("DOGWATCH_BUDGET_USD_PER_DAY"),
        balance_min_usd: values.share("DOGWATCH_BALANCE_MIN_USD").unwrap_or(base.balance_min_usd),
        spawns_per_cycle_max: count("DOGWATCH_SPAWNS_PER_CYCLE", base.spawns_per_cycle_max),
        // On one's own machine nobody pays for a start.
        spawns_per_hour_max: count(
            "DOGWATCH_SPAWNS_PER_HOUR",
            if profile == Profile::Run { base.spawns_per_hour_max } else { 10_000 },
        ),
        task_too_old_seconds: values.whole("DOGWATCH_TASK_TOO_OLD_SECONDS").unwrap_or(base.task_too_old_seconds),
        poison_workers: count("DOGWATCH_POISON_WORKERS", base.poison_workers),
        poison_seconds: values.whole("DOGWATCH_POISON_SECONDS").unwrap_or(base.poison_seconds),
        cells: cells(profile, values),
        pools: values.pools().to_vec(),
        ..base
    }
}

/// A folder's own leader comes back at once; several orchestrators give each other more time.
fn lease(profile: Profile, values: &Values) -> Result<LeaseConfig, BadInput> {
    let seconds = Duration::from_secs;
    let base = match profile {
        Profile::Run => LeaseConfig::default(),
        Profile::Up | Profile::Demo => LeaseConfig { ttl: seconds(30), renew: seconds(3), margin: seconds(10) },
    };
    let lease = LeaseConfig {
        ttl: values.duration("DOGWATCH_LEASE_SECONDS").unwrap_or(base.ttl),
        renew: values.duration("DOGWATCH_LEASE_RENEW_SECONDS").unwrap_or(base.renew),
        margin: values.duration("DOGWATCH_LEASE_MARGIN_SECONDS").unwrap_or(base.margin),
    };
    if lease.renew + lease.margin >= lease.ttl {
        return Err(BadInput::new(
            format!(
                "a lease of {:?} ends before it is renewed: every {:?}, and not within {:?} of its end",
                lease.ttl, lease.renew, lease.margin
            ),
            "raise DOGWATCH_LEASE_SECONDS above DOGWATCH_LEASE_RENEW_SECONDS + DOGWATCH_LEASE_MARGIN_SECONDS",
        ));
    }
    Ok(lease)
}

/// The one cell that the environment can name; none where nothing is known of it.
fn cells(profile: Profile, values: &Values) -> Vec<Offer> {
    let (gpu, image) = (values.text("RUNPOD_GPU_TYPE"), values.text("RUNPOD_TEMPLATE_ID"));
    let usd_per_hour = values.share("DOGWATCH_USD_PER_HOUR");
    let named = profile == Profile::Run && (gpu.is_some() || image.is_some());
    if !named && usd_per_hour.is_none() {
        return Vec::new();
    }
    let gpu = gpu.unwrap_or_else(|| DEFAULT_GPU.to_owned());
    let cell = named.then(|| Cell { gpu, region: String::new(), image: image.unwrap_or_default() });
    vec![Offer { cell, usd_per_hour }]
}

fn recorder(profile: Profile, values: &Values) -> RecorderSettings {
    let demo = profile == Profile::Demo;
    let or = |name, default| values.duration(name).unwrap_or(default);
    RecorderSettings {
        ring_bytes: values.whole("DOGWATCH_RING_BYTES").unwrap_or(if demo { 4 << 20 } else { 16 << 20 }),
        spool_cap_bytes: values.whole("DOGWATCH_SPOOL_CAP_BYTES").unwrap_or(1 << 30),
        sync_every: or("DOGWATCH_SPOOL_SYNC_SECONDS", Duration::from_millis(100)),
        heartbeat_every: or("DOGWATCH_HEARTBEAT_SECONDS", Duration::from_secs(if demo { 1 } else { 15 })),
        level: values.level("LOG_LEVEL").unwrap_or(Level::Info),
        retention: Duration::from_secs(values.whole("DOGWATCH_LOG_RETENTION_HOURS").unwrap_or(48) * 3_600),
        retention_bytes: values.whole("DOGWATCH_LOG_RETENTION_BYTES").unwrap_or(2 << 30),
    }
}

/// The project that log rows go to, where URL and key are set and DATABASE_URL is not.
fn supabase(values: &Values) -> Result<Option<SupabaseConfig>, BadInput> {
    let (Some((url, _)), Some((key, origin)), None) =
        (values.get("SUPABASE_URL"), values.get("SUPABASE_SECRET_KEY"), values.get("DATABASE_URL"))
    else {
        return Ok(None);
    };
    let variable = if let Origin::Environment(name) = origin { name } else { "SUPABASE_SECRET_KEY" };
    let project = SupabaseConfig::new(url, variable, key);
    project.map(Some).map_err(|error| {
        let text = error.to_string();
        let (what, remedy) = text.split_once("; ").unwrap_or((&text, "correct it"));
        BadInput::new(what, remedy)
    })
}

/// Settings that tell processes of one fleet apart.
const OF_ONE_PROCESS: [&str; 4] =
    ["ORCHESTRATOR_INSTANCE_ID", "DOGWATCH_LISTEN", "DOGWATCH_WATCH_LISTEN", "DOGWATCH_DATA_DIR"];

/// SHA-256 over what is in force, without secrets and without what is each process's own: the same for
/// all that were deployed together.
fn hash(policy: &Policy, values: &Values) -> String {
    let public: BTreeMap<_, _> = values.public().filter(|(name, _)| !OF_ONE_PROCESS.contains(name)).collect();
    let text = serde_json::to_string(&(policy, public)).unwrap_or_default();
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A variable of the environment, for whoever must hand it on.
#[expect(clippy::disallowed_methods, reason = "config is the place that reads the environment")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn read_file(path: &Path) -> Result<(PathBuf, toml::Table), BadInput> {
    let bad = |detail: String| {
        BadInput::new(
            format!("DOGWATCH_CONFIG names {}, which {detail}", path.display()),
            "correct the path or the file",
        )
    };
    let length = std::fs::metadata(path).map_err(|error| bad(format!("cannot be read ({error})")))?.len();
    if length > FILE_BYTES_MAX {
        return Err(bad(format!("has {length} bytes, more than {FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| bad(format!("cannot be read ({error})")))?;
    let table = text.parse::<toml::Table>().map_err(|error| {
        let at = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        bad(format!("is not TOML (line {}: {})", at.matches('\n').count() + 1, error.message()))
    })?;
    Ok((path.to_owned(), table))
}

/// The platform's folder for data: `$XDG_DATA_HOME/dogwatch`, else `~/.local/share/dogwatch`.
fn default_data_dir() -> Result<PathBuf, BadInput> {
    let set = |name| environment(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|folder| folder.join("dogwatch"))
        .ok_or_else(|| {
            BadInput::new(
                "neither HOME nor XDG_DATA_HOME is set, so there is no data folder",
                "set DOGWATCH_DATA_DIR",
            )
        })
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(2, |count| u32::try_from(count.get()).unwrap_or(64))
}

/// This machine's name, made fit for ids.
pub fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fit: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).take(40).collect();
    if fit.is_empty() { "host".to_owned() } else { fit }
}

#[cfg(test)]
mod tests;
