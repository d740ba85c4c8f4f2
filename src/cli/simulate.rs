//! `dogwatch simulate`: seeds with everything that goes wrong, or a workload under several policies.
//!
//! Exit 1 where an invariant did not hold; the command that lives that seed again is printed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::args::SimulateArgs;
use super::{Outcome, render};
use crate::error::{self, BadInput, Exit};
use crate::simulate::{self, Rules, Trace};

/// Seeds and days of `--long`.
const LONG: (std::ops::Range<u64>, u32) = (0..1_000, 10);
/// Version of what `--json` prints.
const SCHEMA_VERSION: u32 = 1;

/// What the seeds came to.
#[derive(Debug, Default, Serialize)]
struct Report {
    schema_version: u32,
    seeds: u64,
    fleet_days: f64,
    broken: Vec<Broken>,
    cycles: u64,
    calms: u64,
    submitted: u64,
    completed: u64,
    pods: u64,
    struck: BTreeMap<&'static str, u64>,
    kill_points: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Broken {
    seed: u64,
    what: String,
    again: String,
}

pub(super) fn main(args: &SimulateArgs) -> Outcome {
    if let Some(seed) = args.field {
        render::line(serde_json::to_string(&simulate::field(seed))?)?;
        return Ok(Exit::Ok);
    }
    match &args.trace {
        Some(path) => trace(path, args),
        None => seeds(args),
    }
}

fn trace(path: &Path, args: &SimulateArgs) -> Outcome {
    let bad = |what: String| BadInput::new(what, "docs/traces.md says what a workload looks like");
    let text = std::fs::read_to_string(path)
        .map_err(|failure| bad(format!("{}: {}", path.display(), error::chain(&failure))))?;
    let trace = Trace::parse(&text).map_err(|failure| bad(format!("{}: {failure}", path.display())))?;
    let rules =
        match &args.policy {
            None => Rules::ALL.to_vec(),
            Some(word) => {
                let parsed = word.parse::<Rules>();
                vec![parsed.map_err(|known| {
                    BadInput::new(format!("--policy {word} is not known"), format!("use {known}"))
                })?]
            }
        };
    let outcomes: Vec<simulate::Outcome> = rules.into_iter().map(|rules| simulate::bench(&trace, rules)).collect();
    if args.output.json {
        render::json("outcomes", &outcomes)?;
        return Ok(Exit::Ok);
    }
    let header =
        ["policy", "cost $", "/ bound", "wait p50 s", "wait p95 s", "pods", "productive", "creates", "busy"];
    let row = |outcome: &simulate::Outcome| {
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        vec![
            outcome.policy.to_owned(),
            format!("{:.2}", outcome.cost),
            format!("{:.2}", ratio(outcome.cost, outcome.cost_lower_bound)),
            format!("{:.0}", outcome.wait_p50_s),
            format!("{:.0}", outcome.wait_p95_s),
            outcome.spawns.to_string(),
            format!("{:.0} %", 100.0 * ratio(outcome.productive_spawns as f64, outcome.spawns as f64)),
            outcome.create_calls.to_string(),
            format!("{:.0} %", 100.0 * outcome.busy_share),
        ]
    };
    render::table(&header, outcomes.iter().map(row).collect())?;
    Ok(Exit::Ok)
}

fn seeds(args: &SimulateArgs) -> Outcome {
    let (range, days) = if args.long { LONG } else { (range(&args.seeds)?, args.days) };
    let mut report = Report { schema_version: SCHEMA_VERSION, ..Report::default() };
    for seed in range {
        let life = simulate::live(seed, days);
        if let Some(what) = &life.broken {
            let again = format!("dogwatch simulate --seeds {seed}..{} --days {days}", seed + 1);
            render::note(format!("seed {seed}: {what}\n  again: {again}"));
            report.broken.push(Broken { seed, what: what.clone(), again });
        }
        add(&mut report, life);
    }
    let exit = if report.broken.is_empty() { Exit::Ok } else { Exit::Problem };
    if args.output.json {
        render::line(serde_json::to_string(&report)?)?;
        return Ok(exit);
    }
    let rows = report.struck.iter().map(|(what, count)| vec![(*what).to_owned(), count.to_string()]);
    render::table(&["what struck", "times"], rows.collect())?;
    let Report { seeds, fleet_days, cycles, calms, submitted, completed, broken, .. } = &report;
    render::line(format!(
        "{seeds} seeds, {fleet_days:.1} fleet-days, {cycles} decisions, {calms} calms; {completed} of {submitted} \
         tasks completed; {} seeds broke an invariant",
        broken.len()
    ))?;
    Ok(exit)
}

fn add(report: &mut Report, life: simulate::Life) {
    report.seeds += 1;
    report.fleet_days += life.fleet_days;
    report.cycles += life.cycles;
    report.calms += life.calms;
    report.submitted += life.submitted;
    report.completed += life.completed;
    report.pods += life.pods;
    for (what, count) in life.struck {
        *report.struck.entry(what).or_default() += count;
    }
    for (point, count) in life.kills {
        *report.kill_points.entry(point).or_default() += count;
    }
}

fn range(text: &str) -> Result<std::ops::Range<u64>, BadInput> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.filter(|range| range.start < range.end).ok_or_else(|| {
        BadInput::new(format!("--seeds {text} is no range of seeds"), "use two whole numbers, such as 0..20")
    })
}
