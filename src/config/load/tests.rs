//! What values mean, and what every name of the field sets.

use super::*;

fn config(profile: Profile, flags: &[(&'static str, &str)]) -> Result<Config, BadInput> {
    let mut all = vec![("DOGWATCH_DATA_DIR", "/data".to_owned())];
    all.extend(flags.iter().map(|(name, value)| (*name, (*value).to_owned())));
    Config::from_values(profile, Values::read(&all, &|_| None, None)?)
}

#[test]
fn the_defaults_of_run_are_those_that_operators_know() {
    let config = config(Profile::Run, &[]).unwrap();
    assert_eq!((config.policy.min_workers, config.policy.max_workers), (1, 10));
    assert_eq!(config.policy.live.unwrap().cycle_ms, 30_000);
    assert_eq!(config.policy.log_silence_seconds, 40);
}

#[test]
fn contradictions_and_open_doors_are_refused() {
    let error = config(Profile::Run, &[("MIN_ACTIVE_GPUS", "5"), ("MAX_ACTIVE_GPUS", "2")]).unwrap_err();
    assert!(error.to_string().starts_with("MIN_ACTIVE_GPUS 5 is above"), "{error}");
    assert!(config(Profile::Run, &[("MAX_ACTIVE_GPUS", "0")]).is_ok(), "the emergency stop");
    let error = config(Profile::Up, &[("DOGWATCH_LISTEN", "0.0.0.0:7411")]).unwrap_err();
    assert!(error.to_string().contains("DOGWATCH_TOKEN"), "{error}");
    assert!(config(Profile::Up, &[("DOGWATCH_WATCH_LISTEN", "0.0.0.0:7412")]).is_err());
    assert!(config(Profile::Up, &[("DOGWATCH_LISTEN", "0.0.0.0:1"), ("DOGWATCH_TOKEN", "t")]).is_ok());
}

#[test]
fn the_hash_changes_with_the_policy_and_neither_with_a_secret_nor_a_processs_name() {
    let hash = |flags: &[(&'static str, &str)]| config(Profile::Run, flags).unwrap().hash;
    assert_eq!(hash(&[]), hash(&[("DOGWATCH_TOKEN", "t")]));
    assert_eq!(hash(&[]), hash(&[("ORCHESTRATOR_INSTANCE_ID", "b"), ("DOGWATCH_LISTEN", "127.0.0.1:1")]));
    assert_ne!(hash(&[]), hash(&[("MAX_ACTIVE_GPUS", "3")]));
}

/// What a setting came to, in words.
type Effect = fn(&Config) -> String;

/// Name in the environment, value, the setting it is for, and what that comes to.
const NAMES: &[(&str, &str, &str, Effect, &str)] = &[
    ("ORCHESTRATOR_POLL_SEC", "12", "ORCHESTRATOR_POLL_SEC", |c| l(c).cycle_ms.to_string(), "12000"),
    ("MIN_ACTIVE_GPUS", "2", "MIN_ACTIVE_GPUS", |c| c.policy.min_workers.to_string(), "2"),
    ("MAX_ACTIVE_GPUS", "7", "MAX_ACTIVE_GPUS", |c| c.policy.max_workers.to_string(), "7"),
    ("MACHINES_TO_KEEP_IDLE", "1", "MACHINES_TO_KEEP_IDLE", |c| c.policy.idle_buffer.to_string(), "1"),
    ("MAX_WORKER_FAILURE_RATE", "0.5", "MAX_WORKER_FAILURE_RATE", |c| c.policy.failure_rate_max.to_string(), "0.5"),
    (
        "FAILURE_WINDOW_MINUTES",
        "9",
        "FAILURE_WINDOW_MINUTES",
        |c| c.policy.failure_window_seconds.to_string(),
        "540",
    ),
    (
        "MIN_WORKERS_FOR_RATE_CHECK",
        "3",
        "MIN_WORKERS_FOR_RATE_CHECK",
        |c| c.policy.failure_rate_min_workers.to_string(),
        "3",
    ),
    (
        "GPU_IDLE_TIMEOUT_SEC",
        "77",
        "DOGWATCH_HEARTBEAT_LIMIT_SECONDS",
        |c| format!("{} {}", c.policy.heartbeat_timeout_seconds, c.policy.idle_timeout_seconds),
        "77 77",
    ),
    (
        "GPU_OVERCAPACITY_IDLE_TIMEOUT_SEC",
        "8",
        "GPU_OVERCAPACITY_IDLE_TIMEOUT_SEC",
        |c| l(c).overcapacity_idle_timeout_seconds.to_string(),
        "8",
    ),
    ("SPAWNING_TIMEOUT_SEC", "61", "SPAWNING_TIMEOUT_SEC", |c| l(c).spawning_timeout_seconds.to_string(), "61"),
    (
        "SCRIPT_RUNNING_TIMEOUT_SEC",
        "62",
        "STARTUP_GRACE_PERIOD_SEC",
        |c| l(c).startup_timeout_seconds.to_string(),
        "62",
    ),
    (
        "STARTUP_GRACE_PERIOD_SEC",
        "63",
        "STARTUP_GRACE_PERIOD_SEC",
        |c| l(c).startup_timeout_seconds.to_string(),
        "63",
    ),
    ("TASK_STUCK_TIMEOUT_SEC", "64", "TASK_STUCK_TIMEOUT_SEC", |c| l(c).progress_timeout_seconds.to_string(), "64"),
    ("RUNPOD_GPU_TYPE", "NVIDIA A40", "RUNPOD_GPU_TYPE", |c| l(c).cells[0].name().unwrap(), "A40"),
    ("RUNPOD_TEMPLATE_ID", "t7", "RUNPOD_TEMPLATE_ID", |c| l(c).cells[0].cell.clone().unwrap().image, "t7"),
    ("RUNPOD_CONTAINER_DISK_GB", "50", "RUNPOD_CONTAINER_DISK_GB", |c| t(c, "RUNPOD_CONTAINER_DISK_GB"), "50"),
    ("RUNPOD_STORAGE_NAME", "vol", "RUNPOD_STORAGE_NAME", |c| t(c, "RUNPOD_STORAGE_NAME"), "vol"),
    ("RUNPOD_VOLUME_MOUNT_PATH", "/v", "RUNPOD_VOLUME_MOUNT_PATH", |c| t(c, "RUNPOD_VOLUME_MOUNT_PATH"), "/v"),
    ("RUNPOD_API_KEY", "k", "RUNPOD_API_KEY", |c| t(c, "RUNPOD_API_KEY"), "k"),
    ("DATABASE_URL", "postgres://h/x", "DATABASE_URL", |c| t(c, "DATABASE_URL"), "postgres://h/x"),
    ("ORCHESTRATOR_INSTANCE_ID", "o-1", "ORCHESTRATOR_INSTANCE_ID", |c| c.instance.clone(), "o-1"),
    ("LOG_LEVEL", "debug", "LOG_LEVEL", |c| format!("{:?}", c.recorder.level), "Debug"),
    ("LOG_FORMAT", "json", "LOG_FORMAT", |c| t(c, "LOG_FORMAT"), "json"),
];

/// Every name of the field: what it sets, and that its source is told.
#[test]
fn every_name_that_operators_set_has_an_effect_and_a_source() {
    for (name, value, setting, effect, expected) in NAMES {
        let lookup = |asked: &str| (asked == *name).then(|| (*value).to_owned());
        let flags = [("DOGWATCH_DATA_DIR", "/data".to_owned())];
        let values = Values::read(&flags, &lookup, None).unwrap();
        let (_, origin) = values.get(setting).unwrap_or_else(|| panic!("{name} sets nothing"));
        assert_eq!(origin.to_string(), format!("environment {name}"));
        let config = Config::from_values(Profile::Run, values).unwrap();
        assert_eq!(effect(&config), *expected, "{name}");
    }
}

fn l(config: &Config) -> PolicyLive {
    config.policy.live.clone().unwrap()
}

fn t(config: &Config, setting: &str) -> String {
    config.values.text(setting).unwrap()
}

#[test]
fn money_has_units_and_the_environment_alone_is_one_pool() {
    let one =
        config(Profile::Run, &[("DOGWATCH_BUDGET_USD_PER_DAY", "12.5"), ("DOGWATCH_USD_PER_HOUR", "0.6")]).unwrap();
    assert_eq!(l(&one).budget_usd_per_day, Some(12.5));
    let pools = crate::fleet::pool::pools(&one.policy);
    assert_eq!((pools.len(), pools[0].name.as_str(), pools[0].max_workers), (1, "default", 10));
    assert_eq!(pools[0].cells[0].usd_per_hour, Some(0.6));
    assert!(config(Profile::Run, &[("DOGWATCH_BUDGET_USD_PER_DAY", "-1")]).is_err());
}

#[test]
fn rows_go_to_supabase_where_both_settings_stand_and_database_url_does_not() {
    let url = ("SUPABASE_URL", "https://abc.supabase.co");
    let key = ("SUPABASE_SECRET_KEY", "sb_secret_marked");
    let to = |flags: &[(&'static str, &str)]| config(Profile::Up, flags).unwrap().logs_to();
    assert_eq!(to(&[]), "/data/logs.db");
    assert_eq!(to(&[url, key]), "Supabase at https://abc.supabase.co");
    let yields = to(&[url, key, ("DATABASE_URL", "postgres://127.0.0.1/x")]);
    assert!(yields.ends_with("; SUPABASE_URL yields to DATABASE_URL"), "{yields}");
    assert_eq!(to(&[url]), "/data/logs.db; SUPABASE_URL is not used: SUPABASE_SECRET_KEY is not set");
    assert_eq!(to(&[key]), "/data/logs.db; SUPABASE_SECRET_KEY is not used: SUPABASE_URL is not set");
    let error = config(Profile::Up, &[url, ("SUPABASE_SECRET_KEY", "sb_publishable_x")]).unwrap_err();
    assert!(error.to_string().contains("a publishable key"), "{error}");
}

#[test]
fn a_lease_that_ends_before_it_is_renewed_is_refused() {
    assert_eq!(config(Profile::Run, &[]).unwrap().lease, LeaseConfig::default());
    let error = config(Profile::Run, &[("DOGWATCH_LEASE_SECONDS", "20")]).unwrap_err();
    assert!(error.to_string().contains("DOGWATCH_LEASE_RENEW_SECONDS"), "{error}");
}
