//! Which fleet a command is about: DATABASE_URL's where that is set, else the data folder's.

use std::sync::Arc;

use crate::config::{Config, Profile};
use crate::error::{self, BadInput, Unavailable};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::{SqliteStore, TimeSource};
use crate::store::{Store, StoreError};

/// The settings, and the fleet's store.
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) store: Arc<dyn Store>,
}

/// Opens the fleet for a command that reads or submits; an absent folder is made.
pub(super) async fn fleet(flags: Vec<(&'static str, String)>) -> anyhow::Result<Opened> {
    let config = Config::load(Profile::Up, &flags)?;
    data_dir(&config)?;
    let store = store(&config).await?;
    Ok(Opened { config, store })
}

/// Whether the fleet's database may have other orchestrators.
pub(super) fn is_shared(config: &Config) -> bool {
    config.database.is_some()
}

/// The fleet's store.
pub(super) async fn store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    match &config.database {
        Some(address) => Ok(Arc::new(PostgresStore::open(address, TimeSource::Database).await.map_err(explain)?)),
        None => embedded(config).await,
    }
}

/// Whether each connection to the fleet's database keeps its session; a data folder needs none.
pub(super) async fn check_sessions(config: &Config) -> anyhow::Result<()> {
    let Some(address) = &config.database else { return Ok(()) };
    let store = PostgresStore::new(address, TimeSource::Database);
    if store.is_pooled_by_transaction().await.map_err(explain)? {
        return Err(pooled_by_transaction(address));
    }
    Ok(())
}

/// Without a session of its own a connection loses its limits and prepared statements.
fn pooled_by_transaction(place: &dyn std::fmt::Display) -> anyhow::Error {
    BadInput::new(
        format!("DATABASE_URL leads to {place} through a pooler in transaction mode"),
        "use the direct connection, or the pooler in session mode (Supabase: port 5432 instead of 6543)",
    )
    .into()
}

/// What an error means for whoever typed a command.
pub(super) fn explain(failed: StoreError) -> anyhow::Error {
    let text = error::chain(&failed);
    if text.contains("prepared statement") {
        return pooled_by_transaction(&"Postgres");
    }
    match failed {
        StoreError::Unavailable { .. } => {
            Unavailable { service: "the Postgres of DATABASE_URL".to_owned(), detail: text }.into()
        }
        StoreError::Schema { detail } => BadInput::new(
            format!("the Postgres of DATABASE_URL cannot be used: {detail}"),
            "run `dogwatch migrate`",
        )
        .into(),
        other => anyhow::Error::new(other),
    }
}

/// What it means that log rows cannot be read: of a project they are a service of their own.
pub(super) fn unreadable(config: &Config, failed: StoreError) -> anyhow::Error {
    match (&config.database, &config.supabase, &failed) {
        (None, Some(project), StoreError::Unavailable { source, .. }) => {
            let service = format!("system_logs of the Supabase project at {}", project.url());
            Unavailable { service, detail: error::chain(&**source) }.into()
        }
        (Some(_), ..) => explain(failed),
        _ => anyhow::Error::new(failed),
    }
}

/// The embedded store of the data folder.
async fn embedded(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let store = SqliteStore::open(&config.data_dir, TimeSource::Database).await.map_err(|error| {
        BadInput::new(
            format!("the fleet in {} cannot be opened: {}", config.data_dir.display(), crate::error::chain(&error)),
            "name another folder with --data-dir, or repair this one",
        )
    })?;
    Ok(match &config.supabase {
        Some(project) => Arc::new(store.with_logs_in(project.clone())),
        None => Arc::new(store),
    })
}

/// Makes the data folder, for its owner alone, and shows that it can be written.
pub(super) fn data_dir(config: &Config) -> Result<(), BadInput> {
    use std::os::unix::fs::DirBuilderExt as _;
    let folder = &config.data_dir;
    let bad = |error: std::io::Error| {
        BadInput::new(
            format!("the data folder {} cannot be used ({error})", folder.display()),
            "make it writable, or name another with --data-dir or DOGWATCH_DATA_DIR",
        )
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(bad)?;
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    std::fs::write(&probe, b"dogwatch").map_err(bad)?;
    std::fs::remove_file(&probe).map_err(bad)
}
