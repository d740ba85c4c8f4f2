//! Every setting: its name, the older names that are accepted for it, its form and its meaning.
//!
//! In the TOML file the key is the name in lower case, without `DOGWATCH_`.

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// Any text that is not empty.
    Text,
    /// Letters, digits, `-` and `_`: it becomes part of pod names.
    Name,
    /// Text that is never shown.
    Secret,
    /// A file or folder.
    Path,
    /// `address:port`.
    Address,
    /// http:// or https://.
    Url,
    /// A level's word.
    Level,
    /// A whole number within bounds.
    Whole(u64, u64),
    /// Seconds, fractions allowed, within bounds.
    Seconds(f64, f64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A number from 0 to 1.
    Share,
    /// US dollars, fractions allowed.
    Dollars,
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Its name in the environment.
    pub name: &'static str,
    /// Other names in the environment, tried in this order.
    pub aliases: &'static [&'static str],
    /// What its value must look like.
    pub form: Form,
    /// What it does.
    pub help: &'static str,
}

const DAY: f64 = 86_400.0;

const fn setting(name: &'static str, aliases: &'static [&'static str], form: Form, help: &'static str) -> Setting {
    Setting { name, aliases, form, help }
}

/// All settings, in the order in which help and `doctor` show them.
pub const ALL: &[Setting] = &[
    setting("DOGWATCH_DATA_DIR", &[], Form::Path, "folder of fleet.db, logs.db and spool/"),
    setting("DOGWATCH_SPOOL_DIR", &[], Form::Path, "folder of the spools; unset: spool/ of the data folder"),
    setting("DOGWATCH_FLEET", &[], Form::Name, "name of the fleet, part of pod names"),
    setting("DOGWATCH_ENV", &[], Form::Name, "name of the environment, part of pod names"),
    setting(
        "ORCHESTRATOR_INSTANCE_ID",
        &["DOGWATCH_INSTANCE_ID"],
        Form::Name,
        "this orchestrator's name: source_id of its records",
    ),
    setting("DOGWATCH_LISTEN", &[], Form::Address, "address of gateway and page"),
    setting("DOGWATCH_TOKEN", &[], Form::Secret, "bearer token; needed where the address is not loopback"),
    setting("DATABASE_URL", &[], Form::Secret, "Postgres that the fleet lives in"),
    setting("ORCHESTRATOR_POLL_SEC", &[], Form::Seconds(0.1, 3_600.0), "period of a cycle"),
    setting("MIN_ACTIVE_GPUS", &[], Form::Whole(0, 10_000), "workers to have, demand or not"),
    setting("MAX_ACTIVE_GPUS", &[], Form::Whole(0, 10_000), "workers never to exceed; 0 stops all spawning"),
    setting("MACHINES_TO_KEEP_IDLE", &[], Form::Whole(0, 10_000), "idle workers to keep"),
    setting("DOGWATCH_USER_TASK_LIMIT", &[], Form::Whole(1, 1_000_000), "tasks in progress one user may have"),
    setting("MAX_WORKER_FAILURE_RATE", &[], Form::Share, "share of failures above which spawning blocks"),
    setting("FAILURE_WINDOW_MINUTES", &[], Form::Whole(1, 10_080), "time over which failures are counted"),
    setting("MIN_WORKERS_FOR_RATE_CHECK", &[], Form::Whole(1, 10_000), "fewer ended workers never block"),
    setting(
        "DOGWATCH_HEARTBEAT_LIMIT_SECONDS",
        &["GPU_IDLE_TIMEOUT_SEC"],
        Form::Seconds(1.0, DAY),
        "age of a heartbeat at which a worker is stale",
    ),
    setting(
        "DOGWATCH_IDLE_LIMIT_SECONDS",
        &["GPU_IDLE_TIMEOUT_SEC"],
        Form::Seconds(0.0, DAY),
        "idle time after which a worker that is not needed ends",
    ),
    setting(
        "GPU_OVERCAPACITY_IDLE_TIMEOUT_SEC",
        &[],
        Form::Seconds(0.0, DAY),
        "idle limit of a worker above the desired count",
    ),
    setting("SPAWNING_TIMEOUT_SEC", &[], Form::Seconds(1.0, DAY), "from intent to the provider's running pod"),
    setting(
        "STARTUP_GRACE_PERIOD_SEC",
        &["SCRIPT_RUNNING_TIMEOUT_SEC"],
        Form::Seconds(1.0, DAY),
        "from running pod to first heartbeat",
    ),
    setting(
        "TASK_STUCK_TIMEOUT_SEC",
        &[],
        Form::Seconds(1.0, DAY),
        "a busy worker without progress for this long has stalled",
    ),
    setting("DOGWATCH_BEAT_SECONDS", &[], Form::Seconds(0.1, 600.0), "period of an agent's heartbeat"),
    setting("DOGWATCH_CLAIM_SECONDS", &[], Form::Seconds(0.05, 600.0), "mean period of an idle agent's claims"),
    setting(
        "DOGWATCH_DEAD_MAN_SECONDS",
        &[],
        Form::Seconds(1.0, DAY),
        "an agent that cannot reach its base this long stops between tasks",
    ),
    setting(
        "DOGWATCH_BUDGET_USD_PER_HOUR",
        &[],
        Form::Dollars,
        "dollars an hour that all machines may cost; unset: no limit",
    ),
    setting(
        "DOGWATCH_BUDGET_USD_PER_DAY",
        &[],
        Form::Dollars,
        "dollars that may be spent in a UTC day; unset: no limit",
    ),
    setting(
        "DOGWATCH_BALANCE_MIN_USD",
        &[],
        Form::Dollars,
        "nothing is asked for where the account holds less, dollars",
    ),
    setting("DOGWATCH_USD_PER_HOUR", &[], Form::Dollars, "what a machine costs an hour, dollars; unset: not known"),
    setting("DOGWATCH_SPAWNS_PER_CYCLE", &[], Form::Whole(0, 1_000), "workers that may be asked for in one cycle"),
    setting("DOGWATCH_SPAWNS_PER_HOUR", &[], Form::Whole(0, 100_000), "workers that may be asked for in one hour"),
    setting(
        "DOGWATCH_TASK_TOO_OLD_SECONDS",
        &[],
        Form::Whole(0, 315_360_000),
        "age at which a queued task is set aside until somebody looks; 0 = never",
    ),
    setting(
        "DOGWATCH_POISON_WORKERS",
        &[],
        Form::Whole(2, 100),
        "so many workers dead soon after claiming a task: the task is to blame",
    ),
    setting("DOGWATCH_POISON_SECONDS", &[], Form::Whole(1, 86_400), "what soon after the claim means"),
    setting("RUNPOD_API_KEY", &[], Form::Secret, "the provider's key"),
    setting("RUNPOD_GPU_TYPE", &[], Form::Text, "GPU type of a fleet without declared pools"),
    setting("RUNPOD_CONTAINER_DISK_GB", &[], Form::Whole(1, 100_000), "disk of a pod, GB"),
    setting("RUNPOD_TEMPLATE_ID", &[], Form::Text, "template that pods are made from"),
    setting("RUNPOD_STORAGE_NAME", &[], Form::Text, "network volume of the pods"),
    setting("RUNPOD_VOLUME_MOUNT_PATH", &[], Form::Path, "where the volume is mounted"),
    setting("LOG_FORMAT", &[], Form::Word(&["json", "plain"]), "form of the lines on stderr"),
    setting(
        "DOGWATCH_LOG_SILENCE_SECONDS",
        &[],
        Form::Seconds(1.0, DAY),
        "age of the newest row at which a live source is silent",
    ),
    setting("LOG_LEVEL", &["DOGWATCH_LOG_LEVEL"], Form::Level, "lowest level that is recorded"),
    setting("DOGWATCH_RING_BYTES", &[], Form::Whole(1 << 16, 1 << 30), "size of the ring"),
    setting("DOGWATCH_SPOOL_CAP_BYTES", &[], Form::Whole(1 << 20, 1 << 40), "most bytes of segments on disk"),
    setting("DOGWATCH_SPOOL_SYNC_SECONDS", &[], Form::Seconds(0.001, 60.0), "longest time to a record's fdatasync"),
    setting("DOGWATCH_HEARTBEAT_SECONDS", &[], Form::Seconds(0.1, 3_600.0), "period of the heartbeat record"),
    setting(
        "DOGWATCH_LOG_RETENTION_HOURS",
        &[],
        Form::Whole(1, 87_600),
        "age at which rows of logs.db are deleted",
    ),
    setting("DOGWATCH_LOG_RETENTION_BYTES", &[], Form::Whole(1 << 20, 1 << 44), "size that logs.db is kept below"),
    setting("DOGWATCH_WATCH_LISTEN", &[], Form::Address, "address of the watch's /livez and /metrics"),
    setting("DOGWATCH_WATCH_SECONDS", &[], Form::Seconds(0.1, 600.0), "period of the watch's rounds"),
    setting("DOGWATCH_WEBHOOK_URL", &[], Form::Url, "where alarms are posted"),
    setting("DOGWATCH_BASE_URL", &[], Form::Url, "agent: where the fleet's door is"),
    setting("DOGWATCH_WORKER_ID", &["WORKER_ID"], Form::Name, "agent: its worker"),
    setting("DOGWATCH_WORKER_TOKEN", &[], Form::Secret, "agent: its only right"),
    setting("DOGWATCH_API_KEY", &[], Form::Secret, "agent: publishable key, where the base is Supabase"),
    setting("DOGWATCH_DRAIN_SECONDS", &[], Form::Seconds(0.0, DAY), "agent: time a program gets to finish"),
    setting("DOGWATCH_RUN_TYPE", &[], Form::Name, "agent: what kind of tasks it takes; unset: any"),
    setting("DOGWATCH_DIE_WITH_PARENT", &[], Form::Whole(1, u32::MAX as u64), "agent: process it does not outlive"),
];

/// Flags of the command line that set a setting: (setting, flag).
pub const FLAGS: &[(&str, &str)] =
    &[("DOGWATCH_DATA_DIR", "--data-dir"), ("DOGWATCH_LISTEN", "--listen"), ("MAX_ACTIVE_GPUS", "--max-workers")];

/// The setting of that name or older name.
pub fn find(name: &str) -> Option<&'static Setting> {
    ALL.iter().find(|setting| setting.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_name_of_the_field_is_accepted() {
        let mut names: Vec<_> = ALL.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in ["ORCHESTRATOR_POLL_SEC", "MIN_ACTIVE_GPUS", "MAX_ACTIVE_GPUS", "TASK_STUCK_TIMEOUT_SEC"] {
            assert!(find(name).is_some(), "{name}");
        }
    }
}
