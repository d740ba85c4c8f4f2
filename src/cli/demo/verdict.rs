//! What the demo claims, and whether each claim was checked.

use serde::Serialize;

use crate::cli::render::SCHEMA_VERSION;

/// The one line of `demo --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Verdict {
    pub(super) schema_version: u32,
    pub(super) ok: bool,
    pub(super) tasks: Tasks,
    pub(super) worker_killed: WorkerKilled,
    pub(super) records: Records,
    pub(super) silence: Silence,
    pub(super) checks: Vec<Check>,
}

/// How many tasks there were, and how many are done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Tasks {
    pub(super) total: u64,
    pub(super) done: u64,
}

/// Who was killed, in which task, and who finished it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct WorkerKilled {
    pub(super) worker: String,
    pub(super) task: String,
    pub(super) finished_by: String,
}

/// What became of every record, over all processes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Records {
    pub(super) exporter: String,
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) dropped: u64,
    pub(super) quarantined: u64,
    pub(super) pending: u64,
}

/// The cut.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Silence {
    pub(super) cut_for_seconds: f64,
    pub(super) noticed_after_seconds: f64,
}

/// One claim.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    pub(super) detail: String,
}

impl Default for Verdict {
    fn default() -> Self {
        Verdict {
            schema_version: SCHEMA_VERSION,
            ok: true,
            tasks: Tasks::default(),
            worker_killed: WorkerKilled::default(),
            records: Records::default(),
            silence: Silence::default(),
            checks: Vec::new(),
        }
    }
}

impl Verdict {
    /// Adds a claim; the verdict is good only while all are.
    pub(super) fn check(&mut self, name: &'static str, ok: bool, detail: impl Into<String>) {
        self.ok &= ok;
        self.checks.push(Check { name, ok, detail: detail.into() });
    }

    /// The verdict for people.
    pub(super) fn page(&self) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let mut lines: Vec<String> = self
            .checks
            .iter()
            .map(|check| {
                let mark = if check.ok { "ok  " } else { "FAIL" };
                format!("{mark}  {:width$}  {}", check.name, check.detail)
            })
            .collect();
        let failed = self.checks.iter().filter(|check| !check.ok).count();
        lines.push(String::new());
        lines.push(if self.ok {
            format!(
                "All {} checks hold: {} of {} tasks done, one worker killed, {:.0} s of cut log noticed after {:.1} s, \
                 {} records accepted and {} delivered.",
                self.checks.len(),
                self.tasks.done,
                self.tasks.total,
                self.silence.cut_for_seconds,
                self.silence.noticed_after_seconds,
                self.records.accepted,
                self.records.delivered,
            )
        } else {
            format!("{failed} of {} checks failed.", self.checks.len())
        });
        lines.join("\n")
    }
}
