//! `dogwatch spool quarantine`: records that a destination has refused, and damaged bytes: listed,
//! delivered once more, or given up. The conservation law follows: what is delivered counts as
//! delivered from then on, what is given up as dropped.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::args::{QuarantineCommand, QuarantinePick};
use super::super::node::{self, Role};
use super::super::{Outcome, render};
use crate::clock;
use crate::config::Config;
use crate::error::{self, BadInput, Exit};
use crate::fleet::ids::BootId;
use crate::telemetry;
use crate::telemetry::exporter::{ExportError, Exporter};
use crate::telemetry::record::Stored;
use crate::telemetry::row::Row;
use crate::telemetry::spool::disk::RealDisk;
use crate::telemetry::spool::quarantine::{self, Kept, Label};
use crate::telemetry::spool::settled::{self, Fate, Settled};

/// Longest time that one record's delivery may take.
const DELIVER_LIMIT: Duration = Duration::from_secs(20);
/// Longest text of a record in the table, characters.
const TEXT_CHARS_MAX: usize = 120;

pub(super) fn main(config: &Config, command: &QuarantineCommand) -> Outcome {
    let root = config.spool_dir();
    match command {
        QuarantineCommand::Ls(output) => list(&root, output.json),
        QuarantineCommand::Retry(pick) => {
            let _lock = lock(&root)?;
            retry(config, &root, pick)
        }
        QuarantineCommand::Drop(pick) => {
            let _lock = lock(&root)?;
            give_up(&root, pick)
        }
    }
}

/// One process at a time takes records up; the lock dies with it.
fn lock(root: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(root)?;
    let file = File::options().create(true).truncate(false).write(true).open(root.join("quarantine.lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(BadInput::new(
            format!("another process is at work on the quarantine of {}", root.display()),
            "wait for its end",
        )
        .into()),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

fn list(root: &Path, json: bool) -> Outcome {
    let files = quarantine::list(&RealDisk, root)?;
    let all: Vec<(String, Kept)> = files.into_iter().map(|(name, bytes)| (name, Kept::read(bytes))).collect();
    if json {
        render::json("quarantine", &all.iter().map(|(name, kept)| document(name, kept)).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    let rows = all.iter().map(|(name, kept)| match kept {
        Kept::Record(label, stored) => vec![
            name.clone(),
            label.slot.clone(),
            format!("{}/{}", label.source.source_type, label.source.source_id),
            label.level.word().to_owned(),
            text_of(stored).chars().take(TEXT_CHARS_MAX).collect(),
            label.why.clone(),
        ],
        Kept::Bytes(bytes) => {
            let dash = || "-".to_owned();
            vec![name.clone(), dash(), dash(), dash(), dash(), format!("{} damaged bytes", bytes.len())]
        }
    });
    render::table(&["name", "exporter", "source", "level", "text", "reason"], rows.collect())?;
    Ok(Exit::Ok)
}

fn document(name: &str, kept: &Kept) -> Value {
    match kept {
        Kept::Record(label, stored) => json!({
            "name": name, "exporter": label.slot, "boot": label.boot, "seq": label.seq,
            "source_type": label.source.source_type, "source_id": label.source.source_id,
            "log_level": label.level.word(), "message": text_of(stored), "reason": label.why,
        }),
        Kept::Bytes(bytes) => json!({"name": name, "damaged_bytes": bytes.len()}),
    }
}

fn text_of(stored: &Stored) -> String {
    Row::from_stored(stored).map_or_else(|error| format!("({})", error::chain(&error)), |row| row.message)
}

/// What was asked for, in the order of its names.
fn picked(root: &Path, pick: &QuarantinePick) -> anyhow::Result<Vec<(String, Kept)>> {
    let mut files = quarantine::list(&RealDisk, root)?;
    for name in &pick.names {
        if files.iter().all(|(other, _)| other != name) {
            return Err(BadInput::new(
                format!("{name:?} is not in the quarantine"),
                "take a name that `dogwatch spool quarantine ls` shows",
            )
            .into());
        }
    }
    files.retain(|(name, _)| pick.all || pick.names.contains(name));
    files.sort();
    Ok(files.into_iter().map(|(name, bytes)| (name, Kept::read(bytes))).collect())
}

fn retry(config: &Config, root: &Path, pick: &QuarantinePick) -> Outcome {
    let mut settled = Settled::load(&RealDisk, root)?;
    settled.tidy(&RealDisk, root)?;
    let all = picked(root, pick)?;
    crate::http::install_tls();
    let settings = node::recorder_config(config, Role::Client("spool"), BootId(uuid::Uuid::new_v4()));
    let (settings, _) = node::with_otel(settings)?;
    let mut exporters = telemetry::exporters(&settings)?;
    let (mut exit, mut said) = (Exit::Ok, Vec::new());
    for (name, kept) in &all {
        let done = deliver(&mut exporters, kept);
        if let (Ok(()), Kept::Record(label, _)) = (&done, kept) {
            settled.settle(&RealDisk, root, name, label, Fate::Delivered)?;
        }
        exit = match &done {
            Ok(()) => exit,
            Err(ExportError::Retry { .. }) => Exit::Unavailable,
            Err(_) if exit == Exit::Ok => Exit::Problem,
            Err(_) => exit,
        };
        let outcome = done.as_ref().map_or_else(ToString::to_string, |()| "delivered".to_owned());
        said.push((name.clone(), done.is_ok(), outcome));
    }
    print(&said, pick.output.json)?;
    Ok(exit)
}

/// Asks the exporter of the record's slot to take it.
fn deliver(exporters: &mut [(&'static str, Box<dyn Exporter>)], kept: &Kept) -> Result<(), ExportError> {
    let Kept::Record(Label { slot, .. }, stored) = kept else {
        return Err(ExportError::Refused {
            detail: "damaged bytes are no record that could be delivered".to_owned(),
        });
    };
    let Some((_, exporter)) = exporters.iter_mut().find(|(name, _)| name == slot) else {
        let detail = format!("no exporter `{slot}` is set up here");
        return Err(ExportError::Blocked { detail, remedy: "set the variables that the recorder had".to_owned() });
    };
    let exported = exporter.export(std::slice::from_ref(stored), clock::now(), DELIVER_LIMIT)?;
    if exported.rejected > 0 {
        return Err(ExportError::Refused { detail: "the other side has rejected it again".to_owned() });
    }
    Ok(())
}

fn give_up(root: &Path, pick: &QuarantinePick) -> Outcome {
    let mut settled = Settled::load(&RealDisk, root)?;
    settled.tidy(&RealDisk, root)?;
    let mut said = Vec::new();
    for (name, kept) in picked(root, pick)? {
        match &kept {
            Kept::Record(label, _) => settled.settle(&RealDisk, root, &name, label, Fate::GivenUp)?,
            // Their records were counted as damaged when they were found.
            Kept::Bytes(_) => settled::remove(&RealDisk, root, &name)?,
        }
        said.push((name, true, "given up".to_owned()));
    }
    print(&said, pick.output.json)?;
    Ok(Exit::Ok)
}

fn print(said: &[(String, bool, String)], json: bool) -> anyhow::Result<()> {
    if json {
        let all: Vec<Value> = said
            .iter()
            .map(|(name, done, outcome)| json!({"name": name, "done": done, "outcome": outcome}))
            .collect();
        return render::json("quarantine", &all);
    }
    if said.is_empty() {
        return render::line("nothing is in the quarantine");
    }
    said.iter().try_for_each(|(name, _, outcome)| render::line(format!("{name}: {outcome}")))
}
