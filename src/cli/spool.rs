//! `dogwatch spool`: what lies in the spools of this folder, whether it adds up, and repair.

mod quarantine;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::args::{SpoolArgs, SpoolCommand};
use super::{Outcome, render};
use crate::config::{Config, Profile};
use crate::error::Exit;
use crate::telemetry::exporter::stdout;
use crate::telemetry::exporters_file::{self, Stood};
use crate::telemetry::row::Row;
use crate::telemetry::spool::disk::{Disk, RealDisk};
use crate::telemetry::spool::repair;
use crate::telemetry::spool::verify::{Line, verify};

pub(super) fn main(args: &SpoolArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let config = Config::load(Profile::Up, &flags)?;
    let root = config.spool_dir();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    match &args.command {
        SpoolCommand::Quarantine(command) => quarantine::main(&config, command),
        SpoolCommand::Ls(output) => list(&*disk, &root, output.json),
        SpoolCommand::Cat => cat(&*disk, &root),
        SpoolCommand::Verify(output) => check(&verify(&*disk, &root)?, output.json),
        SpoolCommand::Repair(output) => {
            let repaired = repair::repair(&disk, &root)?;
            if output.json {
                render::json("repaired", &repaired)?;
            } else if repaired.is_empty() {
                render::line("nothing had to be repaired (spools of running processes are left alone)")?;
            } else {
                for one in &repaired {
                    let (kept, bytes) = (one.kept, one.damaged_bytes);
                    render::line(format!(
                        "{}/{:020}: {kept} entries kept, {bytes} bytes set aside",
                        one.boot, one.segment
                    ))?;
                }
            }
            Ok(Exit::Ok)
        }
    }
}

fn list(disk: &dyn Disk, root: &Path, json: bool) -> Outcome {
    let folders = repair::ls(disk, root)?;
    if json {
        render::json(
            "spools",
            &folders.iter().map(|folder| with_exporters(disk, root, folder)).collect::<Vec<_>>(),
        )?;
        return Ok(Exit::Ok);
    }
    let rows = folders.iter().map(|folder| {
        let pending: Vec<_> = folder.pending.iter().map(|(slot, count)| format!("{slot} {count}")).collect();
        vec![
            folder.boot.to_string(),
            folder.segments.to_string(),
            folder.bytes.to_string(),
            folder.records.to_string(),
            if pending.is_empty() { "-".to_owned() } else { pending.join(", ") },
        ]
    });
    render::table(&["boot", "segments", "bytes", "records", "pending"], rows.collect())?;
    for line in exporter_lines(root) {
        render::line(format!("exporter {line}"))?;
    }
    Ok(Exit::Ok)
}

/// One JSON object a line; a record that is no OTLP is said on stderr and passed over.
fn cat(disk: &dyn Disk, root: &Path) -> Outcome {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut failed = None;
    for folder in repair::ls(disk, root)? {
        repair::cat(disk, root, folder.boot, &mut |stored| {
            let written = match Row::from_stored(&stored) {
                Ok(row) => writeln!(out, "{}", stdout::line(row)),
                Err(error) => {
                    render::note(format!("dogwatch spool: {}", crate::error::chain(&error)));
                    Ok(())
                }
            };
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn check(lines: &[Line], json: bool) -> Outcome {
    let holds = lines.iter().all(|line| line.ok);
    if json {
        render::json("lines", &lines)?;
    } else {
        let rows = lines.iter().map(|line| {
            vec![
                format!("{}/{}", line.source_type, line.source_id),
                line.boot.to_string(),
                line.exporter.clone(),
                line.accepted.to_string(),
                line.delivered.to_string(),
                line.dropped.values().sum::<u64>().to_string(),
                line.quarantined.to_string(),
                line.pending.to_string(),
                line.fault.clone().unwrap_or_else(|| "ok".to_owned()),
            ]
        });
        let header =
            ["source", "boot", "exporter", "accepted", "delivered", "dropped", "quarantined", "pending", "law"];
        render::table(&header, rows.collect())?;
    }
    Ok(if holds { Exit::Ok } else { Exit::Problem })
}

/// For `spool ls` and `status`: what each exporter has still to deliver over all spools, and what
/// keeps it from it, in one line.
pub(super) fn exporter_lines(root: &Path) -> Vec<String> {
    let mut pending: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let folders = match repair::ls(&RealDisk, root) {
        Ok(folders) => folders,
        Err(error) => return vec![format!("unknown: {}", crate::error::chain(&error))],
    };
    for (slot, count) in folders.into_iter().flat_map(|folder| folder.pending) {
        let sum = pending.entry(slot).or_default();
        *sum = (sum.0 + count, sum.1 + 1);
    }
    let stood = newest_stood(root);
    let line = |(slot, (records, spools)): (String, (u64, u64))| {
        let trouble = stood.get(&slot).map_or_else(String::new, |stood| trouble(stood, records));
        format!(
            "{slot}: {} to deliver in {}{trouble}",
            render::count(records, "record"),
            render::count(spools, "spool")
        )
    };
    pending.into_iter().map(line).collect()
}

/// Per slot, what was last told of an error.
fn newest_stood(root: &Path) -> BTreeMap<String, Stood> {
    let mut newest: BTreeMap<String, Stood> = BTreeMap::new();
    for stood in exporters_file::read_all(&RealDisk, root).unwrap_or_default().into_iter().flat_map(|(_, all)| all)
    {
        let is_newer = newest.get(&stood.slot).is_none_or(|other| other.last_error_at <= stood.last_error_at);
        if is_newer {
            newest.insert(stood.slot.clone(), stood);
        }
    }
    newest
}

fn trouble(stood: &Stood, pending: u64) -> String {
    let error = stood.last_error.as_deref().unwrap_or("no error");
    let at = stood.last_error_at.map_or_else(String::new, |at| format!(" ({})", at.strftime("%H:%M:%S UTC")));
    match (stood.state.as_str(), &stood.remedy) {
        // Most errors that block end with what to do.
        ("blocked", Some(remedy)) if !error.ends_with(remedy) => {
            format!("; {} is blocked{at}: {error}; {remedy}", stood.exporter)
        }
        ("blocked", _) => format!("; {} is blocked{at}: {error}", stood.exporter),
        ("retrying", _) => format!("; {} tries again{at}: {error}", stood.exporter),
        _ if pending > 0 => format!("; {}, last error{at}: {error}", stood.exporter),
        _ => String::new(),
    }
}

/// A folder with what its recorder last told of its exporters.
fn with_exporters(disk: &dyn Disk, root: &Path, folder: &repair::Listed) -> serde_json::Value {
    let all = exporters_file::read_all(disk, root).unwrap_or_default();
    let own = all.into_iter().find(|(boot, _)| *boot == folder.boot).map(|(_, stood)| stood).unwrap_or_default();
    let mut value = serde_json::to_value(folder).unwrap_or_default();
    value["exporters"] = serde_json::to_value(own).unwrap_or_default();
    value
}
