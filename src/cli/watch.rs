//! `dogwatch watch`: the independent watchdog as a process of its own.

mod lock;

use std::sync::Arc;
use std::time::Duration;

use super::args::WatchArgs;
use super::node::{self, Metrics, Role, Story};
use super::up::wait_for_signal;
use super::{Outcome, open, render};
use crate::config::{Config, Profile, Secret, environment, hostname};
use crate::error::{BadInput, Exit};
use crate::fleet::ids::BootId;
use crate::http::Token;
use crate::store::Process;
use crate::supervise::Intensity;
use crate::supervise::task::{Group, Stop};
use crate::watch::alarms::Hysteresis;
use crate::watch::limits::{Limits, Rhythm};
use crate::watch::notify::{Addresses, Channels};
use crate::watch::rules::Finding;
use crate::watch::{Watch, WatchConfig, canary, http};

/// Time the watch's own recorder has to deliver what is left.
const DELIVER_WITHIN: Duration = Duration::from_secs(3);
/// Least time that a call may take, whatever the period of the rounds.
const CALL_MIN: Duration = Duration::from_secs(1);
/// The same where log rows are read over the internet.
const FAR_CALL_MIN: Duration = Duration::from_secs(3);
/// Period at which a watch that must not outlive its parent looks at it.
const PARENT_EVERY: Duration = Duration::from_millis(500);

pub(super) fn main(args: &WatchArgs, mut flags: Vec<(&'static str, String)>) -> Outcome {
    let profile = if args.demo { Profile::Demo } else { Profile::Up };
    if args.demo {
        // Of the environment the demo asks nothing; this it has set for its watch itself.
        flags.extend(environment("DATABASE_URL").map(|url| ("DATABASE_URL", url)));
        // Whatever else runs on this machine, such as another demo, keeps its port.
        flags.push(("DOGWATCH_WATCH_LISTEN", "127.0.0.1:0".to_owned()));
    }
    let config = Config::load(profile, &flags)?;
    open::data_dir(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    if args.once {
        return runtime.block_on(once(&config, args.json));
    }
    let _lock = lock::take(&config.data_dir, args.take_over)?;
    let boot = BootId(uuid::Uuid::new_v4());
    let story = if args.demo { Story::Demo } else { Story::Up };
    let settings = node::recorder_config(&config, Role::Watch, boot);
    let (settings, push) = if args.demo { (settings, None) } else { node::with_otel(settings)? };
    let guard = node::install(settings, story)?;
    let metrics = node::metrics(push)?;
    let ended = runtime.block_on(run(&config, boot, args.parent, &metrics));
    let left = guard.shutdown(DELIVER_WITHIN);
    tracing::debug!(%left, "recorder ended");
    ended.map(|()| Exit::Ok)
}

async fn run(config: &Config, boot: BootId, parent: Option<u32>, metrics: &Metrics) -> anyhow::Result<()> {
    let listener = node::bind(config.watch.listen).await?;
    let watch_config = watch_config(config, boot)?;
    let silent_max = watch_config.silent_max();
    let watch = Watch::open(open::store(config).await?, watch_config)?;
    let token = guard_token(config, listener.local_addr()?);
    let pages = http::router(watch.pulse(), silent_max, Arc::clone(&metrics.render), token);
    let group = Group::new();
    metrics.keep_small(&group);
    let listener = listener.into_std()?;
    group.start("watch-pages", Intensity::default(), move |_, stop| {
        let (pages, listener) = (pages.clone(), listener.try_clone());
        async move {
            let served = async { http::serve(tokio::net::TcpListener::from_std(listener?)?, pages, stop).await };
            if let Err(error) = served.await {
                tracing::error!(%error, "the watch's pages cannot be served");
            }
        }
    });
    let (handle, stop) = Stop::new();
    let mut rounds = std::pin::pin!(watch.run(stop));
    tokio::select! {
        () = &mut rounds => {}
        signal = wait_for_signal() => tracing::info!(signal = signal?, "the watch is told to end"),
        () = parent_is_gone(parent) => tracing::info!("the parent is gone"),
    }
    handle.raise();
    rounds.await;
    group.stop(DELIVER_WITHIN).await;
    Ok(())
}

/// The token that the pages want: none on loopback.
fn guard_token(config: &Config, address: std::net::SocketAddr) -> Option<Token> {
    config.token.as_ref().filter(|_| !address.ip().is_loopback()).map(|token| Token(token.0.clone()))
}

/// Waits until the parent has ended; for ever where there is none to look at.
async fn parent_is_gone(parent: Option<u32>) {
    let Some(parent) = parent.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw)
    else {
        return std::future::pending().await;
    };
    while rustix::process::getppid() == Some(parent) {
        tokio::time::sleep(PARENT_EVERY).await;
    }
}

fn watch_config(config: &Config, boot: BootId) -> Result<WatchConfig, BadInput> {
    let settings = &config.watch;
    let text = |secret: &'_ Option<Secret>| secret.as_ref().map(|url| url.0.clone());
    let (webhook, alertmanager, deadman) =
        (text(&settings.webhook), text(&settings.alertmanager), text(&settings.deadman));
    let addresses = Addresses {
        webhook: webhook.as_deref(),
        alertmanager: alertmanager.as_deref(),
        deadman: deadman.as_deref(),
    };
    Ok(WatchConfig {
        data_dir: config.data_dir.clone(),
        spool_dir: config.spool_dir(),
        spool_cap_bytes: config.recorder.spool_cap_bytes,
        round: settings.every,
        call_limit: settings.every.max(if config.supabase.is_some() { FAR_CALL_MIN } else { CALL_MIN }),
        limits: limits(config),
        hysteresis: Hysteresis { hold: settings.every, clear: settings.every * 3 },
        user_task_limit: config.policy.user_task_limit,
        canary_every: settings.canary_every,
        plant: Some(Arc::new(canary::emit)),
        channels: Channels::new(&addresses, &config.fleet, &config.env, settings.deadman_every)?,
        process: Process {
            boot_id: boot,
            kind: "watch".to_owned(),
            source_type: "watch".to_owned(),
            source_id: format!("watch-{}", hostname()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_hash: config.hash.clone(),
            host: hostname(),
            pid: std::process::id(),
            started_at: crate::clock::now(),
            seen_at: crate::clock::now(),
            ended_at: None,
        },
    })
}

/// What follows from the fleet's rhythm, and what was set.
fn limits(config: &Config) -> Limits {
    let live = config.policy.live.clone().unwrap_or_default();
    let base = Limits::of(Rhythm {
        silence: Duration::from_secs(config.policy.log_silence_seconds),
        cycle: Duration::from_millis(live.cycle_ms),
        beat: Duration::from_millis(live.beat_ms),
        progress: Duration::from_secs(live.progress_timeout_seconds),
    });
    let values = &config.values;
    let or = |name, default| values.duration(name).unwrap_or(default);
    Limits {
        no_worker: or("DOGWATCH_NO_WORKER_SECONDS", base.no_worker),
        first_heartbeat: or("DOGWATCH_FIRST_HEARTBEAT_SECONDS", base.first_heartbeat),
        spawn_blocked: or("DOGWATCH_SPAWN_BLOCKED_SECONDS", base.spawn_blocked),
        oldest_task: or("DOGWATCH_OLDEST_TASK_SECONDS", base.oldest_task),
        pod_unaccounted: or("DOGWATCH_POD_UNACCOUNTED_SECONDS", base.pod_unaccounted),
        clock_skew: or("DOGWATCH_CLOCK_SKEW_SECONDS", base.clock_skew),
        failure_share: values.share("DOGWATCH_FAILURE_SHARE").unwrap_or(base.failure_share),
        task_failure_share: values.share("DOGWATCH_TASK_FAILURE_SHARE").unwrap_or(base.task_failure_share),
        spool_full_share: values.share("DOGWATCH_SPOOL_FULL_SHARE").unwrap_or(base.spool_full_share),
        disk_free_min_bytes: values.whole("DOGWATCH_DISK_FREE_BYTES").unwrap_or(base.disk_free_min_bytes),
        ..base
    }
}

/// One round; what stands is on stdout.
async fn once(config: &Config, json: bool) -> Outcome {
    let watch_config = watch_config(config, BootId(uuid::Uuid::new_v4()))?;
    let findings = crate::watch::look(&*open::store(config).await?, &watch_config).await;
    if json {
        let row = |finding: &Finding| {
            serde_json::json!({
                "alarm": finding.alarm.word(),
                "rule": finding.alarm.rule(),
                "severity": finding.alarm.severity().word(),
                "source_type": finding.source.source_type,
                "source_id": finding.source.source_id,
                "since": finding.since,
                "summary": finding.summary,
            })
        };
        render::json("findings", &findings.iter().map(row).collect::<Vec<_>>())?;
    } else if findings.is_empty() {
        render::line("nothing is wrong")?;
    } else {
        for finding in &findings {
            render::line(&finding.summary)?;
        }
    }
    Ok(if findings.is_empty() { Exit::Ok } else { Exit::Problem })
}
