//! `dogwatch migrate`: brings the databases to this binary's schema: fleet and `system_logs` in the
//! Postgres of DATABASE_URL where that is set, else the data folder's files.

use std::path::Path;

use serde_json::{Value, json};
use sqlx::Connection as _;

use super::args::MigrateArgs;
use super::{Outcome, open, render};
use crate::clock;
use crate::config::{Config, Profile};
use crate::error::{self, BadInput, Exit, Unavailable};
use crate::http::is_untrusted;
use crate::store::postgres::SCHEMA;
use crate::telemetry::exporter::postgres::Address;
use crate::telemetry::exporter::postgres::schema::{self, MigrateError, Migrated, Mode};
use crate::telemetry::exporter::sqlite::RowWriter;

pub(super) async fn main(args: MigrateArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let config = Config::load(Profile::Up, &flags)?;
    let report = match &config.database {
        Some(address) => vec![postgres(&config, address, args.dry_run).await?],
        None => files(&config, args.dry_run).await?,
    };
    if args.output.json {
        let report: Vec<&Value> = report.iter().map(|(value, _)| value).collect();
        render::json("databases", &report)?;
    } else {
        for (_, line) in report {
            render::line(line)?;
        }
    }
    Ok(Exit::Ok)
}

/// What became of one database: for programs, and for people.
type Said = (Value, String);

async fn files(config: &Config, dry_run: bool) -> anyhow::Result<Vec<Said>> {
    let files = [
        (config.fleet_db(), crate::store::sqlite::SCHEMA_VERSION),
        (config.logs_db(), crate::telemetry::exporter::sqlite::SCHEMA_VERSION),
    ];
    let mut before = Vec::new();
    for (file, _) in &files {
        before.push(version(file).await?);
    }
    if !dry_run {
        open::data_dir(config)?;
        open::store(config).await?;
        RowWriter::new(config.logs_db()).migrate().await?;
    }
    let said = |((file, to), from): ((std::path::PathBuf, i64), i64)| {
        let value = json!({"file": file, "from": from, "to": to, "done": !dry_run});
        let file = file.display();
        let line = match (from == to, dry_run) {
            (true, _) => format!("{file} is at version {to}"),
            (false, true) => format!("{file} would go from version {from} to {to}"),
            (false, false) => format!("{file} went from version {from} to {to}"),
        };
        (value, line)
    };
    Ok(files.into_iter().zip(before).map(said).collect())
}

async fn postgres(config: &Config, address: &Address, dry_run: bool) -> anyhow::Result<Said> {
    // A time that nobody has set leaves the database's own setting as it is.
    let keep = config.values.get("DOGWATCH_LOG_RETENTION_HOURS").map(|_| config.recorder.retention);
    let mode = if dry_run { Mode::DryRun } else { Mode::Apply };
    let done = schema::migrate_with(address, Some(SCHEMA), mode, keep, clock::now()).await.map_err(explain)?;
    let value = json!({
        "database": address.to_string(), "present": done.present, "applied": done.applied,
        "renamed_to": done.renamed_to, "granted": done.granted, "ungranted": done.ungranted,
        "by_pg_cron": done.by_pg_cron, "done": !dry_run,
    });
    Ok((value, text(address, &done, dry_run)))
}

fn text(address: &Address, done: &Migrated, dry_run: bool) -> String {
    let mut lines = Vec::new();
    if done.applied.is_empty() {
        lines.push(format!("{address} has all {}", render::count(done.present.len() as u64, "migration")));
    } else {
        let verb = if dry_run { "would get" } else { "got" };
        lines.push(format!("{address} {verb} {}", done.applied.join(", ")));
    }
    if let Some(name) = done.renamed_to {
        let verb = if dry_run { "would be" } else { "was" };
        lines.push(format!("{address}: the table system_logs that is not dogwatch's {verb} renamed to {name}"));
    }
    if !done.granted.is_empty() {
        let verb = if dry_run { "would be" } else { "were" };
        lines
            .push(format!("{address}: rights that were missing {verb} granted again: {}", done.granted.join(", ")));
    }
    if !done.ungranted.is_empty() {
        let missing = done.ungranted.join(", ");
        lines.push(format!("{address}: rights are missing that only the tables' owner can grant: {missing}"));
    }
    let who = if done.by_pg_cron { "pg_cron" } else { "the recorders that deliver there" };
    lines.push(format!("{address}: partitions and retention are kept by {who}"));
    lines.join("\n")
}

/// No answer is a service that is needed; a refusal is a setting or a right.
fn explain(failed: MigrateError) -> anyhow::Error {
    match &failed {
        MigrateError::Database { database, source, .. } => match source {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut if !is_untrusted(source) => {
                Unavailable { service: format!("Postgres at {database}"), detail: error::chain(source) }.into()
            }
            _ => BadInput::new(
                error::chain(&failed),
                "nothing was changed; correct DATABASE_URL, its role's rights, or what the message names",
            )
            .into(),
        },
        MigrateError::Changed { .. } => anyhow::Error::new(failed),
    }
}

/// The schema's version in the file; 0 where there is none.
async fn version(file: &Path) -> anyhow::Result<i64> {
    if !file.exists() {
        return Ok(0);
    }
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).read_only(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
    let version = sqlx::query_scalar("pragma user_version").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(version)
}
