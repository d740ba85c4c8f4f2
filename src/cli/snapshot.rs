//! `dogwatch snapshot`: the state of the fleet as one document.

use std::time::Duration;

use super::args::SnapshotArgs;
use super::{Outcome, open, render};
use crate::error::{Exit, Unavailable};
use crate::fleet::snapshot::{SCHEMA_VERSION, Snapshot};

pub(super) async fn main(args: SnapshotArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let opened = open::fleet(flags).await?;
    let snapshot = if args.live {
        // A client sees the database only: no listing, no boot, so there is no `live` part.
        let window = Duration::from_secs(opened.config.policy.failure_window_seconds);
        let read = opened.store.observe(window, opened.config.policy.user_task_limit).await?;
        Snapshot {
            schema_version: SCHEMA_VERSION,
            name: format!("{} as a client sees it", opened.config.lease_name()),
            as_of: read.now,
            policy: opened.config.policy.clone(),
            workers: read.workers,
            demand: Some(read.demand),
            records: read.records,
            live: None,
        }
    } else {
        let newest = opened.store.decisions(None, 1).await?.into_iter().next();
        newest.map(|row| row.snapshot).ok_or_else(|| Unavailable {
            service: format!("a snapshot in {}", opened.config.data_dir.display()),
            detail: "no cycle has been stored yet; start `dogwatch up`, or use --live".to_owned(),
        })?
    };
    render::line(serde_json::to_string_pretty(&snapshot)?)?;
    Ok(Exit::Ok)
}
