//! The fleet's store under load: `cargo bench --bench store`, or one part of it with `-- claim` or
//! `-- cycle` behind it.
//!
//! [`claim`]: 16 clients at a queue of 200,000, beside a bare claim. [`cycle`]: whole cycles of an
//! orchestrator on Postgres, by phase. Both on a private server with its own durability (fsync on).

#[path = "store/claim.rs"]
mod claim;
#[path = "store/cycle.rs"]
mod cycle;
#[path = "../tests/rig/postgres.rs"]
#[expect(dead_code, reason = "the rig has more than a bench needs")]
#[expect(clippy::unwrap_used, reason = "a server that does not start ends the bench")]
mod postgres_rig;

use std::error::Error;
use std::io::{self, Write as _};

use dogwatch::clock;
use dogwatch::store::postgres::SCHEMA;
use dogwatch::telemetry::exporter::postgres::Address;
use dogwatch::telemetry::exporter::postgres::schema::{self, Mode};
use postgres_rig::{Cluster, Database, Durability};

fn main() -> Result<(), Box<dyn Error>> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |name: &str| asked.is_empty() || asked.iter().any(|word| word == name);
    let cluster = Cluster::start(Durability::Full);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut out = io::stdout();
    if wants("claim") {
        out.write_all(claim::run(&cluster, &runtime)?.as_bytes())?;
    }
    if wants("cycle") {
        out.write_all(cycle::run(&cluster, &runtime)?.as_bytes())?;
    }
    Ok(())
}

/// A database with an empty fleet.
fn migrated(cluster: &Cluster, runtime: &tokio::runtime::Runtime) -> Result<Database, Box<dyn Error>> {
    let database = cluster.database();
    let address = Address::parse(&database.url())?;
    runtime.block_on(schema::migrate_with(&address, Some(SCHEMA), Mode::Apply, None, clock::now()))?;
    Ok(database)
}
