//! The alarm log on disk: `watch/alerts.jsonl` in the data folder, one JSON object a line.
//!
//! It is written before anybody is told, so that an alarm that could not be delivered can still be
//! read. Above [`FILE_BYTES_MAX`] the file becomes `alerts.jsonl.1` and what still rings is written
//! again, so that the pair always says what rings. A line that cannot be read is skipped and
//! counted.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::alarm::{Alarm, Severity};
use super::alarms::{Change, State};
use super::observation::SourceId;
use super::rules::Finding;
use crate::clock::Time;

/// The version of the format.
pub const SCHEMA_VERSION: u32 = 1;
/// Size at which the file is set aside, bytes; twice this is the most that is kept.
pub const FILE_BYTES_MAX: u64 = 10 << 20;

/// Alarm, source_type, source_id.
pub(super) type AlertKey = (String, Option<String>, Option<String>);

/// One change of one alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRow {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The alarm, such as `log_silence`.
    pub alarm: String,
    /// `firing` or `resolved`.
    pub state: String,
    /// Whom it is about; null where it is about everybody.
    pub source_type: Option<String>,
    /// Whom it is about; null where it is about everybody.
    pub source_id: Option<String>,
    /// Since when things are wrong.
    pub since: Time,
    /// When the change was noticed.
    pub at: Time,
    /// In one sentence.
    pub summary: String,
}

impl AlertRow {
    /// Whether this row says that the alarm rings.
    pub fn is_firing(&self) -> bool {
        self.state == State::Firing.word()
    }

    /// What makes two rows speak of the same alarm.
    pub(super) fn key(&self) -> AlertKey {
        (self.alarm.clone(), self.source_type.clone(), self.source_id.clone())
    }

    /// The alarm; None: this version does not know it.
    fn known(&self) -> Option<Alarm> {
        Alarm::ALL.into_iter().find(|alarm| alarm.word() == self.alarm)
    }

    /// The name of its rule and runbook.
    pub fn rule(&self) -> &str {
        match self.known() {
            Some(alarm) => alarm.rule(),
            None => &self.alarm,
        }
    }

    /// `critical` or `warning`.
    pub fn severity(&self) -> &'static str {
        self.known().map_or(Severity::Warning, Alarm::severity).word()
    }

    fn finding(&self) -> Option<Finding> {
        let source =
            SourceId::new(self.source_type.clone().unwrap_or_default(), self.source_id.clone().unwrap_or_default());
        let alarm = self.known()?;
        Some(Finding { alarm, source, since: self.since, summary: self.summary.clone() })
    }
}

impl From<&Change> for AlertRow {
    fn from(change: &Change) -> AlertRow {
        let Finding { alarm, source, since, summary } = &change.finding;
        let named = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        AlertRow {
            schema_version: SCHEMA_VERSION,
            alarm: alarm.word().to_owned(),
            state: change.state.word().to_owned(),
            source_type: named(&source.source_type),
            source_id: named(&source.source_id),
            since: *since,
            at: change.at,
            summary: summary.clone(),
        }
    }
}

/// What the alarm log says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alerts {
    /// Every change that is kept, oldest first.
    pub history: Vec<AlertRow>,
    /// Lines that could not be read.
    pub unreadable: u64,
}

impl Alerts {
    /// The alarms that ring, oldest first.
    pub fn firing(&self) -> Vec<AlertRow> {
        let mut newest = BTreeMap::new();
        for row in &self.history {
            newest.insert(row.key(), row);
        }
        let mut firing: Vec<_> = newest.into_values().filter(|row| row.is_firing()).cloned().collect();
        firing.sort_by_key(|row| row.at);
        firing
    }

    /// The alarms that ring, as findings of this version's rules.
    pub(super) fn findings(&self) -> Vec<Finding> {
        self.firing().iter().filter_map(AlertRow::finding).collect()
    }
}

/// Reads the alarm log of a data folder; a folder without one has no alarms.
///
/// # Errors
/// The file is there and cannot be read.
pub fn read(data_dir: &Path) -> io::Result<Alerts> {
    let (current, aside) = paths(data_dir);
    let mut alerts = Alerts::default();
    for path in [aside, current] {
        match File::open(path) {
            Ok(file) => read_into(&mut alerts, BufReader::new(file))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(alerts)
}

fn read_into(alerts: &mut Alerts, lines: impl io::BufRead) -> io::Result<()> {
    for line in lines.split(b'\n') {
        match serde_json::from_slice(&line?) {
            Ok(row) => alerts.history.push(row),
            Err(_) => alerts.unreadable += 1,
        }
    }
    Ok(())
}

/// Writes the alarm log.
#[derive(Debug)]
pub(super) struct AlertLog {
    data_dir: PathBuf,
    bytes_max: u64,
}

impl AlertLog {
    /// Makes the folder. A torn last line, from a process that was killed, is closed.
    pub(super) fn open(data_dir: &Path, bytes_max: u64) -> io::Result<AlertLog> {
        fs::create_dir_all(data_dir.join("watch"))?;
        let (current, _) = paths(data_dir);
        if fs::read(&current).is_ok_and(|text| text.last().is_some_and(|byte| *byte != b'\n')) {
            OpenOptions::new().append(true).open(&current)?.write_all(b"\n")?;
        }
        Ok(AlertLog { data_dir: data_dir.to_path_buf(), bytes_max })
    }

    /// Appends a row, on disk before this returns.
    pub(super) fn append(&self, row: &AlertRow) -> io::Result<()> {
        let (current, aside) = paths(&self.data_dir);
        if fs::metadata(&current).is_ok_and(|meta| meta.len() >= self.bytes_max) {
            let ringing = read(&self.data_dir)?.firing();
            fs::rename(&current, &aside)?;
            write(&current, &ringing)?;
        }
        write(&current, std::slice::from_ref(row))
    }
}

fn write(path: &Path, rows: &[AlertRow]) -> io::Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(&text)?;
    file.sync_data()
}

fn paths(data_dir: &Path) -> (PathBuf, PathBuf) {
    let folder = data_dir.join("watch");
    (folder.join("alerts.jsonl"), folder.join("alerts.jsonl.1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn row(source: &str, state: State, at: i64) -> AlertRow {
        AlertRow {
            schema_version: SCHEMA_VERSION,
            alarm: "log_silence".to_owned(),
            state: state.word().to_owned(),
            source_type: Some("worker".to_owned()),
            source_id: Some(source.to_owned()),
            since: clock::from_micros(0),
            at: clock::from_micros(at),
            summary: "silent".to_owned(),
        }
    }

    #[test]
    fn the_newest_change_of_each_alarm_says_whether_it_rings() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Alerts::default());
        let log = AlertLog::open(dir.path(), FILE_BYTES_MAX).unwrap();
        for change in [row("w1", State::Firing, 1), row("w2", State::Firing, 2), row("w1", State::Resolved, 3)] {
            log.append(&change).unwrap();
        }
        let alerts = read(dir.path()).unwrap();
        assert_eq!(alerts.history.len(), 3);
        assert_eq!(alerts.firing(), [row("w2", State::Firing, 2)]);
        assert_eq!(alerts.findings().len(), 1);
    }

    #[test]
    fn a_torn_line_costs_one_row() {
        let dir = tempfile::tempdir().unwrap();
        let log = AlertLog::open(dir.path(), FILE_BYTES_MAX).unwrap();
        log.append(&row("w1", State::Firing, 1)).unwrap();
        let (path, _) = paths(dir.path());
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"alarm\":").unwrap();
        let log = AlertLog::open(dir.path(), FILE_BYTES_MAX).unwrap();
        log.append(&row("w1", State::Resolved, 2)).unwrap();
        let alerts = read(dir.path()).unwrap();
        assert_eq!((alerts.history.len(), alerts.unreadable), (2, 1));
    }

    #[test]
    fn rotation_keeps_what_rings() {
        let dir = tempfile::tempdir().unwrap();
        let log = AlertLog::open(dir.path(), 2_000).unwrap();
        log.append(&row("rings", State::Firing, 0)).unwrap();
        for at in 1..200 {
            let state = if at % 2 == 1 { State::Firing } else { State::Resolved };
            log.append(&row("flaps", state, at)).unwrap();
        }
        let (current, aside) = paths(dir.path());
        for path in [current, aside] {
            assert!(fs::metadata(path).unwrap().len() < 3_000);
        }
        let firing: Vec<_> =
            read(dir.path()).unwrap().firing().into_iter().filter_map(|row| row.source_id).collect();
        assert_eq!(firing, ["rings", "flaps"]);
    }
}
