//! How fast a fleet lives, what is promised at that pace, and the row of the table that a fault gives.

use std::fmt::Write as _;
use std::time::Duration;

use dogwatch::clock;

use crate::flows::rig::{FAST_SETTINGS, is_long, pause};

/// How much longer than promised a fault may stay unnoticed on a busy machine.
const SLACK: u32 = 3;
/// Period of looks.
const LOOK: Duration = Duration::from_millis(300);

/// The numbers that a fleet lives by.
pub(super) struct Pace {
    /// Age of the newest row at which a source is silent, for the watch.
    pub(super) silence: u64,
    /// The same for the rules of Prometheus and for the database's function.
    pub(super) slow_silence: u64,
    /// A program without progress for this long is hung, for the watch.
    pub(super) hung: u64,
    /// When the orchestrator ends such a worker, and one that does not beat.
    pub(super) ended: u64,
    /// What is promised of the watch, beyond the limits.
    pub(super) rounds: u64,
    /// What is promised of Prometheus, beyond the limits.
    pub(super) scrapes: u64,
    /// Settings of the orchestrator and the watch.
    pub(super) settings: &'static [(&'static str, &'static str)],
}

const FAST: Pace =
    Pace { silence: 8, slow_silence: 8, hung: 8, ended: 25, rounds: 2, scrapes: 7, settings: FAST_SETTINGS };

/// A real fleet's, but for what takes ten minutes by itself.
const REAL: Pace = Pace {
    silence: 40,
    slow_silence: 60,
    hung: 60,
    ended: 180,
    rounds: 20,
    scrapes: 30,
    settings: &[("DOGWATCH_LOG_SILENCE_SECONDS", "40")],
};

impl Pace {
    pub(super) fn get() -> &'static Pace {
        if is_long() { &REAL } else { &FAST }
    }

    /// The rules of the tree, as fast.
    pub(super) fn rules(&self) -> String {
        let rules = include_str!("../../../../alerts/dogwatch.yml").replace("for: 5m\n", "for: 2s\n");
        // The disk that is filled here is a small one.
        let rules = rules.replace("< 67108864", "< 4194304");
        if is_long() {
            return rules;
        }
        let faster = [
            ("interval: 15s", "interval: 1s"),
            ("[1m]", "[10s]"),
            ("for: 15s\n", "for: 3s\n"),
            ("for: 30s\n", "for: 3s\n"),
            ("for: 1m\n", "for: 3s\n"),
            ("> 60\n", "> 8\n"),
            ("> 180\n", "> 24\n"),
            ("> 20\n", "> 4\n"),
        ];
        faster.iter().fold(rules, |rules, (from, to)| rules.replace(from, to))
    }
}

/// Who may notice a fault, by when, and how that is seen.
pub(super) struct Look<'a> {
    promised: Duration,
    find: Box<dyn FnMut() -> Option<String> + 'a>,
}

impl<'a> Look<'a> {
    pub(super) fn new(promised: u64, find: impl FnMut() -> Option<String> + 'a) -> Look<'a> {
        Look { promised: Duration::from_secs(promised), find: Box::new(find) }
    }

    /// The same, with something that is done before each look.
    pub(super) fn after(self, mut act: impl FnMut() + 'a) -> Look<'a> {
        let Look { promised, mut find } = self;
        let find = Box::new(move || {
            act();
            find()
        });
        Look { promised, find }
    }
}

/// A row of the table: a fault, and per column what noticed it and after how long.
pub(super) struct Row {
    pub(super) fault: &'static str,
    pub(super) cells: [String; 4],
}

impl Row {
    /// A fault that cannot be had on this machine.
    pub(super) fn not_shown(fault: &'static str, why: &str) -> Row {
        Row { fault, cells: [(); 4].map(|()| format!("not shown here: {why}")) }
    }
}

/// The columns: None where nobody is expected to notice.
pub(super) type Looks<'a> = [Option<Look<'a>>; 4];
const COLUMNS: [&str; 4] = ["inside", "outside", "Prometheus", "database"];

/// Waits until each has noticed what happened at `since`, and no longer than three times as promised.
pub(super) fn measure(fault: &'static str, since: Duration, mut looks: Looks<'_>) -> Row {
    let mut cells = [(); 4].map(|()| "-".to_owned());
    while looks.iter().any(Option::is_some) {
        for (column, place) in looks.iter_mut().enumerate() {
            let Some(look) = place else { continue };
            let promised = look.promised;
            let found = (look.find)();
            let took = clock::monotonic().saturating_sub(since);
            if let Some(what) = found {
                cells[column] = format!("{:.1} s: {what}", took.as_secs_f64());
                *place = None;
            } else {
                let name = COLUMNS[column];
                assert!(took <= promised * SLACK, "{fault}: {name} not within {promised:?} x {SLACK}; {cells:?}");
            }
        }
        pause(LOOK);
    }
    Row { fault, cells }
}

/// The table as docs/who-noticed.md has it.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!("| fault | {} |\n|---|---|---|---|---|\n", COLUMNS.join(" | "));
    for Row { fault, cells } in rows {
        let _ = writeln!(text, "| {fault} | {} |", cells.join(" | "));
    }
    text
}
