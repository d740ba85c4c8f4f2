//! Which fleet a command is about: the data folder's.

use std::sync::Arc;

use crate::config::{Config, Profile};
use crate::error::BadInput;
use crate::store::Store;
use crate::store::sqlite::{SqliteStore, TimeSource};

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

/// The embedded store of the data folder; its log rows are where DATABASE_URL says.
pub(super) async fn store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let store = SqliteStore::open(&config.data_dir, TimeSource::Database).await.map_err(|error| {
        BadInput::new(
            format!("the fleet in {} cannot be opened: {}", config.data_dir.display(), crate::error::chain(&error)),
            "name another folder with --data-dir, or repair this one",
        )
    })?;
    Ok(Arc::new(match &config.database {
        Some(address) => store.with_logs_in(address),
        None => store,
    }))
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
