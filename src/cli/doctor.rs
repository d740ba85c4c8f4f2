//! `dogwatch doctor`: what is set up, and what is wrong with it, in the order in which one thing
//! needs the other. It changes nothing but that each exporter delivers one canary.

mod exporters;

use super::args::DoctorArgs;
use super::{Outcome, open, render};
use crate::clock;
use crate::config::{Config, Profile, environment};
use crate::error::{self, Exit};
use crate::explain::doctor::{self, Finding, Verdict};
use crate::fleet::cell::Offer;
use crate::fleet::pool::Pool;
use crate::store::Store;
use crate::store::postgres::{PostgresStore, SCHEMA_LEVEL, SCHEMA_LEVEL_MIN};
use crate::store::sqlite::TimeSource;
use crate::telemetry::exporter::postgres::Address;

pub(super) async fn main(args: DoctorArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let config = Config::load(Profile::Up, &flags)?;
    let mut findings = vec![settings(&config)];
    findings.extend(config.values.pools().iter().map(pool));
    findings.push(folder(&config));
    let reached = match &config.database {
        Some(address) => postgres(address, &mut findings).await,
        None => {
            findings.push(Finding::ok("database", format!("the fleet is in {}", config.fleet_db().display())));
            true
        }
    };
    if reached {
        match open::store(&config).await {
            Ok(store) => {
                findings.push(skew(&*store).await);
                findings.push(rows(&*store, &config).await);
                findings.extend(exporters::canary(&*store, &config).await);
            }
            Err(error) => findings.push(Finding::problem("fleet", format!("{error:#}"), "see above")),
        }
    }
    let used: &[&str] =
        if config.supabase.is_some() { &["SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"] } else { &[] };
    findings.push(doctor::secrets(|name| environment(name).is_some_and(|value| !value.is_empty()), used));
    show(&findings, args.output.json)
}

fn show(findings: &[Finding], json: bool) -> Outcome {
    if json {
        render::json("findings", &findings)?;
    } else {
        let mark = |verdict| match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "look",
            Verdict::Problem => "WRONG",
        };
        for finding in findings {
            render::line(format!("{:5}  {:9}  {}", mark(finding.verdict), finding.check, finding.evidence))?;
            if !finding.fix.is_empty() {
                render::line(format!("{:16}  -> {}", "", finding.fix))?;
            }
        }
    }
    let wrong = findings.iter().any(|finding| finding.verdict == Verdict::Problem);
    Ok(if wrong { Exit::Problem } else { Exit::Ok })
}

/// Every value that was set, and where it came from; secrets by name only.
fn settings(config: &Config) -> Finding {
    let public: std::collections::BTreeMap<_, _> = config.values.public().collect();
    let mut set = Vec::new();
    for setting in crate::config::settings::ALL {
        if let Some((_, origin)) = config.values.get(setting.name) {
            let shown = public.get(setting.name).copied().unwrap_or("(hidden)");
            set.push(format!("{} = {shown} ({origin})", setting.name));
        }
    }
    let text = if set.is_empty() { "all settings have their defaults".to_owned() } else { set.join("; ") };
    Finding::ok("settings", text)
}

/// A declared pool: what it takes, where, and how many.
fn pool(pool: &Pool) -> Finding {
    let tasks = if pool.task_types.is_empty() { "the rest".to_owned() } else { pool.task_types.join(", ") };
    let cells: Vec<String> = pool.offers().iter().filter_map(Offer::name).collect();
    let cells = if cells.is_empty() { String::new() } else { format!("; cells {}", cells.join(", ")) };
    let Pool { name, min_workers, max_workers, idle_buffer, .. } = pool;
    let numbers = format!("{min_workers} to {max_workers} workers, {idle_buffer} kept idle");
    Finding::ok("pool", format!("{name} takes {tasks}: {numbers}{cells}"))
}

fn folder(config: &Config) -> Finding {
    if let Err(error) = open::data_dir(config) {
        return Finding::problem("folder", error.what, error.remedy);
    }
    let spool = config.spool_dir();
    let free = rustix::fs::statvfs(&config.data_dir).map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    let cap = config.recorder.spool_cap_bytes;
    match free {
        Ok(free) if free < cap => Finding::warning(
            "folder",
            format!("{} MiB free for {}, and the spool may take {} MiB", free >> 20, spool.display(), cap >> 20),
            "make room, or lower DOGWATCH_SPOOL_CAP_BYTES",
        ),
        Ok(free) => Finding::ok("folder", format!("{} can be written, {} MiB free", spool.display(), free >> 20)),
        Err(error) => {
            Finding::problem("folder", format!("{}: {error}", spool.display()), "see that the disk works")
        }
    }
}

/// Reach, pooler, level and rights. False: nothing more can be asked.
async fn postgres(address: &Address, findings: &mut Vec<Finding>) -> bool {
    let store = PostgresStore::new(address, TimeSource::Database);
    match store.is_pooled_by_transaction().await {
        Err(error) => {
            let fix = "correct DATABASE_URL, its password, or the network";
            findings.push(Finding::problem("database", format!("{address}: {}", error::chain(&error)), fix));
            return false;
        }
        Ok(true) => {
            findings.push(Finding::ok("database", format!("{address} answers")));
            findings.push(Finding::problem(
                "pooler",
                "a pooler in transaction mode: sessions, and what is set in them, are shared",
                "use the direct connection, or the pooler in session mode (Supabase: port 5432 instead of 6543)",
            ));
            return false;
        }
        Ok(false) => {
            findings.push(Finding::ok("database", format!("{address} answers")));
            findings.push(Finding::ok("pooler", "each connection has a session of its own"));
        }
    }
    match store.level().await {
        Ok(SCHEMA_LEVEL) => findings.push(Finding::ok("schema", format!("level {SCHEMA_LEVEL}"))),
        Ok(0) => {
            findings.push(Finding::problem("schema", "no tables of dogwatch's", "run `dogwatch migrate`"));
            return false;
        }
        Ok(level) if level > SCHEMA_LEVEL => {
            let evidence = format!("level {level}; this dogwatch knows {SCHEMA_LEVEL}");
            findings.push(Finding::warning("schema", evidence, "use the dogwatch that migrated it"));
        }
        Ok(level) if level < SCHEMA_LEVEL_MIN => {
            let evidence = format!("level {level}; this dogwatch works with {SCHEMA_LEVEL_MIN} and later");
            findings.push(Finding::problem("schema", evidence, "run `dogwatch migrate`"));
            return false;
        }
        Ok(level) => {
            let evidence = format!("level {level}; this dogwatch is made for {SCHEMA_LEVEL}");
            findings.push(Finding::warning("schema", evidence, "run `dogwatch migrate`"));
        }
        Err(error) => {
            findings.push(Finding::problem("schema", error::chain(&error), "grant this role its rights"));
            return false;
        }
    }
    findings.push(own_rights(&store).await);
    findings.push(match store.revoked_rights().await {
        Ok(missing) if missing.is_empty() => Finding::ok("grants", "every role has what the migrations gave it"),
        Ok(missing) => Finding::problem(
            "grants",
            format!("roles lack what the migrations gave them: {}", missing.join(", ")),
            "run `dogwatch migrate` as the role that owns the tables: it grants them again",
        ),
        Err(error) => Finding::problem("grants", error::chain(&error), "grant this role its rights"),
    });
    true
}

async fn own_rights(store: &PostgresStore) -> Finding {
    match store.missing_rights().await {
        Ok(missing) if missing.is_empty() => Finding::ok("rights", "this role may use every table of dogwatch's"),
        Ok(missing) => Finding::problem(
            "rights",
            format!("this role may not use {}", missing.join(", ")),
            "connect as the role that ran `dogwatch migrate`, or grant it select, insert, update, delete",
        ),
        Err(error) => Finding::problem("rights", error::chain(&error), "grant this role its rights"),
    }
}

async fn skew(store: &dyn Store) -> Finding {
    let before = clock::now();
    match store.now().await {
        Ok(now) => {
            let after = clock::now();
            let middle = i64::midpoint(before.as_microsecond(), after.as_microsecond());
            doctor::clocks((now.as_microsecond() - middle) as f64 / 1e6)
        }
        Err(error) => Finding::problem("clock", error::chain(&error), "see above"),
    }
}

/// Counts are made in the database and never cut; what others read through a Data API is.
async fn rows(store: &dyn Store, config: &Config) -> Finding {
    let cap = match &config.database {
        Some(address) => PostgresStore::new(address, TimeSource::Database).data_api_rows_max().await,
        None => Ok(None),
    };
    let totals = store.task_totals(config.policy.user_task_limit).await;
    match (cap, totals) {
        (Ok(cap), Ok(totals)) => {
            let tasks = totals.iter().flat_map(|user| user.by_status.values()).sum();
            doctor::rows(tasks, totals.len(), cap)
        }
        (Err(error), _) | (_, Err(error)) => Finding::problem("rows", error::chain(&error), "see above"),
    }
}
