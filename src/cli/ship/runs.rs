//! Which runs of a source there were, so that a later one can go on where a killed one stopped.
//!
//! Only the newest run counts: its boot id, how many lines it skipped, and whether it ended. How
//! many lines it made durable is never written here; that is counted in its spool.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::error::BadInput;
use crate::fleet::ids::BootId;
use crate::telemetry::spool;

/// Time another process has to finish the adoption of the killed run's spool.
const ADOPTED_WITHIN: Duration = Duration::from_secs(10);

/// The newest run of a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Newest {
    source: String,
    boot: BootId,
    skipped: u64,
    ended: bool,
}

/// The runs of one source.
pub(super) struct Runs {
    path: PathBuf,
    source: String,
    newest: Option<Newest>,
}

impl Runs {
    /// Reads what is known of the source.
    pub(super) fn open(data_dir: &Path, source: &str) -> anyhow::Result<Runs> {
        let folder = data_dir.join("ship");
        std::fs::create_dir_all(&folder)?;
        let name: String = source.bytes().map(|byte| format!("{byte:02x}")).take(100).collect();
        let path = folder.join(format!("{name}.json"));
        let newest = match std::fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice::<Newest>(&bytes).map_err(|error| {
                BadInput::new(
                    format!("{} cannot be read ({error})", path.display()),
                    "remove it to ship the input from its start",
                )
            })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Runs { path, source: source.to_owned(), newest })
    }

    /// Lines of the input that an unfinished run has on disk; 0 where the newest run ended.
    pub(super) fn durable_lines(&self, spool_dir: &Path, source: &str) -> anyhow::Result<u64> {
        let Some(newest) = self.newest.as_ref().filter(|newest| !newest.ended && newest.source == source) else {
            return Ok(0);
        };
        let start = clock::monotonic();
        loop {
            let count = spool::verify::records_of(&spool::disk::RealDisk, spool_dir, newest.boot.0, source)?;
            if let Some(count) = count {
                return Ok(newest.skipped + count);
            }
            anyhow::ensure!(
                clock::monotonic().saturating_sub(start) < ADOPTED_WITHIN,
                "the spool of the killed run {} is held by a process that does not take it over; end that process",
                newest.boot
            );
            let _ = crossbeam_channel::after(Duration::from_millis(20)).recv();
        }
    }

    /// A run begins. One that does not resume begins a count of its own.
    pub(super) fn begin(&mut self, boot: BootId, skipped: u64) -> anyhow::Result<()> {
        self.write(Newest { source: self.source.clone(), boot, skipped, ended: false })
    }

    /// The run has all its lines on disk.
    pub(super) fn end(&mut self, boot: BootId) -> anyhow::Result<()> {
        let skipped = self.newest.as_ref().map_or(0, |newest| newest.skipped);
        self.write(Newest { source: self.source.clone(), boot, skipped, ended: true })
    }

    fn write(&mut self, newest: Newest) -> anyhow::Result<()> {
        spool::disk::replace(&spool::disk::RealDisk, &self.path, &serde_json::to_vec(&newest)?)?;
        self.newest = Some(newest);
        Ok(())
    }
}
