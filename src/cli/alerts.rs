//! `dogwatch alerts`: what rings, and with `--history` what has rung.

use super::args::AlertsArgs;
use super::{Outcome, render, when};
use crate::clock;
use crate::config::{Config, Profile};
use crate::error::Exit;
use crate::watch::alerts;

pub(super) fn main(args: &AlertsArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let config = Config::load(Profile::Up, &flags)?;
    let now = clock::now();
    let (since, until) = when::range(&args.range, now)?;
    let found = alerts::read(&config.data_dir)?;
    let mut rows = if args.history { found.history } else { found.firing() };
    rows.retain(|row| since.is_none_or(|since| row.at >= since) && until.is_none_or(|until| row.at < until));
    if args.output.json {
        render::json("alerts", &rows)?;
    } else if rows.is_empty() {
        render::line(if args.history { "no alarm has rung" } else { "no alarm rings" })?;
    } else {
        let table = rows.iter().map(|row| {
            vec![row.alarm.clone(), row.state.clone(), render::ago(now, Some(row.at)), row.summary.clone()]
        });
        render::table(&["alarm", "state", "at", "summary"], table.collect())?;
    }
    Ok(Exit::Ok)
}
