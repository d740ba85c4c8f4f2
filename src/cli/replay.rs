//! `dogwatch replay`: judges snapshots in files, loads them into a folder, or takes the decisions of a
//! time again under another policy.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::Digest as _;

use super::args::ReplayArgs;
use super::{Outcome, open, render, when};
use crate::error::{BadInput, Exit};
use crate::explain::{replay, what_if};
use crate::fleet::decision::decide;
use crate::store::{DecisionId, DecisionQuery, DecisionRow, Import, StoreError};

type Flags = Vec<(&'static str, String)>;

/// Most decisions that are taken again in one call: a month of cycles of 30 s.
const DECISIONS_MAX: usize = 100_000;

pub(super) fn main(args: ReplayArgs, flags: Flags) -> Outcome {
    if let Some(from) = &args.from {
        return super::block_on(again(from, &args, flags));
    }
    if args.files.is_empty() {
        return Err(BadInput::new("nothing to replay", "name snapshot files, or --from a time").into());
    }
    if args.load {
        return super::block_on(load(args.files, args.output.json, flags));
    }
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    Ok(replay::run(&args.files, args.output.json, &mut out, &mut err))
}

/// Every file is read before the first is written: a bad one changes nothing.
async fn load(paths: Vec<PathBuf>, json: bool, flags: Flags) -> Outcome {
    let mut imports = Vec::with_capacity(paths.len());
    for path in &paths {
        let snapshot = replay::load(path)?.snapshot;
        let digest = sha2::Sha256::digest(serde_json::to_vec(&snapshot)?);
        let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
        imports.push(Import { digest, snapshot, decision });
    }
    let opened = open::fleet(flags).await?;
    let (place, remedy) = match &opened.config.database {
        Some(address) => (address.to_string(), "name an empty database with DATABASE_URL"),
        None => (opened.config.data_dir.display().to_string(), "name an empty folder with --data-dir"),
    };
    let mut loaded = Vec::with_capacity(imports.len());
    for (path, import) in paths.iter().zip(&imports) {
        let new = opened.store.import(import).await.map_err(|error| match error {
            StoreError::BadRow { detail, .. } => BadInput::new(format!("{place}: {detail}"), remedy).into(),
            error if opened.config.database.is_some() => open::explain(error),
            error => error.into(),
        })?;
        super::import_logs::write(&opened.config, import).await?;
        let (name, path) = (&import.snapshot.name, path.display().to_string());
        loaded.push(serde_json::json!({"file": path, "name": name, "digest": import.digest, "new": new}));
        if !json {
            let word = if new { "loaded" } else { "was loaded before" };
            render::note(format!("{path}: {name} {word}; ask `dogwatch why`, `workers`, `logs`"));
        }
    }
    if json {
        render::json("loaded", &loaded)?;
    }
    Ok(Exit::Ok)
}

async fn again(from: &str, args: &ReplayArgs, flags: Flags) -> Outcome {
    let overlay = args.policy.as_deref().map(policy).transpose()?;
    let opened = open::fleet(flags).await?;
    let now = opened.store.now().await?;
    let since = when::parse("--from", from, now)?;
    let until = args.to.as_deref().map(|text| when::parse("--to", text, now)).transpose()?;
    if until.is_some_and(|until| until < since) {
        return Err(BadInput::new(format!("--from {since} is after --to"), "exchange them").into());
    }
    let mut found = what_if::WhatIf::default();
    let mut query =
        DecisionQuery { since: Some(since), until, oldest_first: true, limit: 500, ..Default::default() };
    let mut read = 0;
    loop {
        let rows = opened.store.decision_rows(&query).await?;
        let Some(last) = rows.last().map(|row: &DecisionRow| row.id) else { break };
        read += rows.len();
        let part = what_if::what_if(&rows, overlay.as_ref()).map_err(|error| {
            let path = args.policy.as_deref().map_or_else(String::new, |path| path.display().to_string());
            BadInput::new(format!("{path}: {error}"), "write a JSON object with keys of a snapshot's policy")
        })?;
        found.add(part);
        query.after = Some::<DecisionId>(last);
        if read >= DECISIONS_MAX {
            render::note(format!("more than {DECISIONS_MAX} decisions: the rest was not looked at"));
            break;
        }
    }
    if args.output.json {
        render::json("replay", &found)?;
    } else {
        render::line(what_if::words(&found).trim_end())?;
    }
    let reproduced = found.not_reproduced == 0;
    Ok(if reproduced { Exit::Ok } else { Exit::Problem })
}

fn policy(path: &Path) -> Result<Map<String, Value>, BadInput> {
    let bad = |detail: String| {
        BadInput::new(
            format!("{}: {detail}", path.display()),
            "write a JSON object with keys of a snapshot's policy",
        )
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| bad(error.to_string()))
}
