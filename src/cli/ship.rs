//! `dogwatch ship`: lines from stdin into the spool and on to the exporters.
//!
//! Each line is one record; it is acknowledged when it is on disk. A reader that is faster than
//! the disk waits: nothing is refused. With `--resume` the lines that earlier unfinished runs of
//! the same source made durable are skipped; how many that is stands in those runs' own spools, so
//! a kill at any moment loses no line and repeats none.

mod line;
mod runs;

use std::collections::VecDeque;
use std::io::{BufRead as _, Read as _, Write as _};
use std::time::Duration;

use self::runs::Runs;
use super::args::ShipArgs;
use super::node::{self, Role, Story};
use super::{Outcome, open, render};
use crate::clock;
use crate::config::{Config, Profile};
use crate::error::{BadInput, Exit};
use crate::fleet::ids::BootId;
use crate::telemetry::ring::Refused;
use crate::telemetry::{Guard, Recorder, SourceNo, record::Source};

/// Longest line, bytes; the rest of a longer one is dropped and said in the record.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Share of the ring above which reading waits for the disk.
const FILL_MAX: f64 = 0.5;
/// Wait for the disk between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// Time without any progress of the disk after which a run is given up.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Longest name of a source, bytes.
const NAME_BYTES_MAX: usize = 200;

pub(super) fn main(args: &ShipArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    for (option, name) in [("--source", &args.source), ("--source-type", &args.source_type)] {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(BadInput::new(
                format!("{option} {name:?} is no name"),
                "write 1 to 200 printable characters",
            )
            .into());
        }
    }
    let config = Config::load(Profile::Up, &flags)?;
    let boot = BootId(uuid::Uuid::new_v4());
    let settings = node::recorder_config(&config, Role::Ship(args.source.clone()), boot);
    let (settings, _) = node::with_otel(settings)?;
    open::data_dir(&config)?;
    let mut runs = Runs::open(&config.data_dir, &args.source)?;
    let guard = node::install(settings, Story::Demo)?;
    let skip = if args.resume { runs.durable_lines(&config.spool_dir(), &args.source)? } else { 0 };
    runs.begin(boot, skip)?;
    let mut run = Run::new(&guard, args)?;
    run.lines(skip)?;
    let durable = run.finish();
    if let Err(error) = durable {
        let left = guard.shutdown(Duration::from_secs(1));
        render::note(format!("dogwatch ship: {left}"));
        return Err(error);
    }
    runs.end(boot)?;
    if args.wait_delivered && !guard.wait_delivered(|text| render::note(format!("dogwatch ship: {text}"))) {
        let left = guard.shutdown(Duration::from_secs(1));
        render::note(format!("dogwatch ship: not delivered: {left}"));
        return Ok(Exit::Problem);
    }
    let left = guard.shutdown(Duration::from_secs(5));
    render::note(format!("dogwatch ship: {left}"));
    Ok(Exit::Ok)
}

/// One run over the input.
struct Run<'a> {
    recorder: &'a Recorder,
    source: SourceNo,
    acks: bool,
    /// Positions of lines that are not yet known to be on disk.
    waiting: VecDeque<u64>,
    durable: u64,
}

impl<'a> Run<'a> {
    fn new(guard: &'a Guard, args: &ShipArgs) -> anyhow::Result<Run<'a>> {
        let recorder = guard.recorder();
        let source = Source {
            source_type: args.source_type.clone(),
            source_id: args.source.clone(),
            resource: vec![("service.name".to_owned(), args.source.clone())],
        };
        let source = recorder.intern(&source).map_err(|refused| anyhow::anyhow!("the ring refuses: {refused}"))?;
        Ok(Run { recorder, source, acks: args.acks, waiting: VecDeque::new(), durable: 0 })
    }

    /// Reads all of stdin; the first `skip` lines are on disk already.
    fn lines(&mut self, skip: u64) -> anyhow::Result<()> {
        let mut input = std::io::stdin().lock();
        let mut bytes = Vec::new();
        let mut number = 0;
        loop {
            bytes.clear();
            if input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(());
            }
            let mut cut = 0;
            while bytes.last() != Some(&b'\n') && bytes.len() as u64 >= LINE_BYTES_MAX {
                let mut rest = Vec::new();
                cut += input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut rest)?;
                if rest.last() == Some(&b'\n') || rest.is_empty() {
                    break;
                }
            }
            number += 1;
            if number > skip {
                self.one(&bytes, cut)?;
            }
        }
    }

    fn one(&mut self, bytes: &[u8], cut: usize) -> anyhow::Result<()> {
        let line = line::parse(bytes, cut, clock::now());
        let position = loop {
            self.wait_until(|run| run.recorder.ring_fill() <= FILL_MAX && !run.recorder.is_spool_low())?;
            match line.emit(self.recorder, self.source) {
                Ok(position) => break position,
                // Heartbeats share the ring: the room that was seen may be gone.
                Err(Refused::Full | Refused::AboveNinety | Refused::SpoolLow) => {}
                Err(refused) => anyhow::bail!("the ring refuses a line: {refused}"),
            }
        };
        self.waiting.push_back(position);
        self.acknowledge()
    }

    /// Waits for the disk, and fails where it has taken nothing for a long time.
    fn wait_until(&mut self, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let (mut progress_at, mut progress) = (clock::monotonic(), self.recorder.durable_through());
        while !done(self) {
            let _ = crossbeam_channel::after(LOOK).recv();
            self.acknowledge()?;
            let (now, through) = (clock::monotonic(), self.recorder.durable_through());
            if through != progress {
                (progress_at, progress) = (now, through);
            }
            anyhow::ensure!(
                now.saturating_sub(progress_at) < STUCK_AFTER,
                "the spool has taken nothing for {} s; see `dogwatch spool ls`",
                STUCK_AFTER.as_secs()
            );
        }
        Ok(())
    }

    /// Counts the lines that the disk has, and says so where that was asked for.
    fn acknowledge(&mut self) -> anyhow::Result<()> {
        let through = self.recorder.durable_through();
        let before = self.durable;
        while self.waiting.front().is_some_and(|position| *position <= through) {
            self.waiting.pop_front();
            self.durable += 1;
        }
        if self.acks && self.durable != before {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{{\"durable\": {}}}", self.durable)?;
            out.flush()?;
        }
        Ok(())
    }

    /// Waits until every line is on disk.
    fn finish(&mut self) -> anyhow::Result<()> {
        self.wait_until(|run| run.waiting.is_empty())
    }
}
