//! `dogwatch migrate`: brings the databases to this binary's schema.

use std::path::Path;

use sqlx::Connection as _;

use super::args::MigrateArgs;
use super::{Outcome, open, render};
use crate::config::{Config, Profile};
use crate::error::{BadInput, Exit};
use crate::store::postgres::MIGRATIONS;
use crate::telemetry::exporter::postgres::Address;
use crate::telemetry::exporter::postgres::schema::{self, Mode};
use crate::telemetry::exporter::sqlite::RowWriter;

pub(super) async fn main(args: MigrateArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let config = Config::load(Profile::Up, &flags)?;
    if let Some(url) = config.values.text("DATABASE_URL") {
        let address =
            Address::parse(&url).map_err(|error| BadInput::new(error.to_string(), "correct DATABASE_URL"))?;
        let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply };
        let done = schema::migrate_with(&address, MIGRATIONS, mode, None, crate::clock::now()).await?;
        render::json("databases", &[done])?;
        return Ok(Exit::Ok);
    }
    let files = [config.fleet_db(), config.logs_db()];
    let before = [version(&files[0]).await?, version(&files[1]).await?];
    if !args.dry_run {
        open::data_dir(&config)?;
        open::store(&config).await?;
        RowWriter::new(&files[1]).migrate().await?;
    }
    let wanted = [crate::store::sqlite::SCHEMA_VERSION, crate::telemetry::exporter::sqlite::SCHEMA_VERSION];
    let mut report = Vec::new();
    for ((file, from), to) in files.iter().zip(before).zip(wanted) {
        report.push(serde_json::json!({"file": file, "from": from, "to": to, "done": !args.dry_run}));
    }
    if args.output.json {
        render::json("databases", &report)?;
    } else {
        for ((file, from), to) in files.iter().zip(before).zip(wanted) {
            let file = file.display();
            render::line(match (from == to, args.dry_run) {
                (true, _) => format!("{file} is at version {to}"),
                (false, true) => format!("{file} would go from version {from} to {to}"),
                (false, false) => format!("{file} went from version {from} to {to}"),
            })?;
        }
    }
    Ok(Exit::Ok)
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
