//! Where each exporter stands, on disk beside the records that wait for it: an exporter that cannot
//! reach its database cannot say so in that database.
//!
//! The keeper writes it when something changes, so that a recorder that is well writes nothing. Not
//! for programs that run (they ask the guard), and nothing is decided by it.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::shipper::{Facts, State};
use super::spool::Folder;
use super::spool::disk::{Disk, read, replace};
use super::spool::folder::boots;
use crate::clock::{self, Time};

const NAME: &str = "exporters.json";
/// Longest file that is read, bytes.
const FILE_BYTES_MAX: usize = 64 << 10;

/// An error that repeats is written once in so long.
const REPEAT: Duration = Duration::from_secs(60);

/// Where one exporter stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stood {
    /// Its slot, such as `database`.
    pub slot: String,
    /// Its name, such as `postgres`.
    pub exporter: String,
    /// `delivering`, `retrying` or `blocked`.
    pub state: String,
    /// What to do, where it is blocked.
    pub remedy: Option<String>,
    /// Its last error.
    pub last_error: Option<String>,
    /// When that was seen; it may have been seen again within the minute after.
    pub last_error_at: Option<Time>,
}

impl Stood {
    fn of(slot: &str, facts: &Facts) -> Stood {
        let (state, remedy) = match &facts.state {
            State::Idle | State::Delivering => ("delivering", None),
            State::Retrying { .. } => ("retrying", None),
            State::Blocked { remedy, .. } => ("blocked", Some(remedy.clone())),
        };
        let (at, error) = facts.last_error.clone().unzip();
        Stood {
            slot: slot.to_owned(),
            exporter: facts.exporter.to_owned(),
            state: state.to_owned(),
            remedy,
            last_error: error,
            last_error_at: at,
        }
    }

    /// The same trouble, seen again so soon that it is not worth a write.
    fn repeats(&self, before: &Stood) -> bool {
        let soon = match (before.last_error_at, self.last_error_at) {
            (Some(before), Some(at)) => clock::age(at, before) < REPEAT && before <= at,
            (before, at) => before == at,
        };
        soon && Stood { last_error_at: before.last_error_at, ..self.clone() } == *before
    }
}

/// Writes where the exporters stand, where that differs from `before`; what is written then.
///
/// # Errors
/// As the disk tells; it is tried again when something changes.
pub(super) fn write(folder: &Folder, all: &[(&str, Facts)], before: &[Stood]) -> io::Result<Option<Vec<Stood>>> {
    let stood: Vec<Stood> = all
        .iter()
        .filter(|(_, facts)| facts.last_error.is_some())
        .map(|(slot, facts)| Stood::of(slot, facts))
        .collect();
    if stood.len() == before.len() && stood.iter().zip(before).all(|(stood, before)| stood.repeats(before)) {
        return Ok(None);
    }
    replace(folder.disk(), &folder.path().join(NAME), &serde_json::to_vec(&stood)?)?;
    Ok(Some(stood))
}

/// What the recorders of all folders under the spool's root have written; one without errors has
/// written nothing.
///
/// # Errors
/// As the disk tells.
pub fn read_all(disk: &dyn Disk, root: &Path) -> io::Result<Vec<(Uuid, Vec<Stood>)>> {
    let mut all = Vec::new();
    for boot in boots(disk, root, usize::MAX).map_err(io::Error::other)? {
        let path = root.join(boot.hyphenated().to_string()).join(NAME);
        match read(disk, &path, FILE_BYTES_MAX) {
            Ok(bytes) => all.push((boot, serde_json::from_slice(&bytes).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_as_they_are_and_only_a_repetition_within_a_minute_is_none() {
        let at = |micros: i64| Stood {
            slot: "database".into(),
            exporter: "postgres".into(),
            state: "retrying".into(),
            remedy: None,
            last_error: Some("refused".into()),
            last_error_at: Some(clock::from_micros(micros)),
        };
        let first = at(1_760_636_131_250_000);
        let text = serde_json::to_string(&first).unwrap();
        assert_eq!(serde_json::from_str::<Stood>(&text).unwrap(), first);
        assert!(first.repeats(&first) && at(1_760_636_191_249_999).repeats(&first));
        assert!(!at(1_760_636_191_250_000).repeats(&first), "a minute later");
        assert!(!at(1_760_636_131_249_999).repeats(&first), "the clock went back");
        assert!(!Stood { last_error: Some("reset".into()), ..first.clone() }.repeats(&first));
        assert!(!Stood { state: "delivering".into(), ..first.clone() }.repeats(&first));
        assert!(!Stood { last_error_at: None, ..first.clone() }.repeats(&first));
    }
}
