//! When a finding becomes an alarm, and when the alarm is over: a pure state machine.
//!
//! Pending -> firing once the finding has stood for `hold`; resolved once it has been absent for
//! `clear`, not counting the time in which it could not be judged. Whoever is told is told once per
//! change: firing once, resolved once. A pending finding that vanishes was never anything.

use std::collections::BTreeMap;
use std::time::Duration;

use super::alarm::Alarm;
use super::observation::SourceId;
use super::rules::Finding;
use crate::clock::{self, Time};

/// Most alarms that are followed at the same time; findings beyond it wait.
pub const ALARMS_MAX: usize = 1_000;

/// How long before a change is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hysteresis {
    /// A finding must stand this long before it rings.
    pub hold: Duration,
    /// It must be absent this long before it is over.
    pub clear: Duration,
}

/// Which way an alarm changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It rings.
    Firing,
    /// It is over.
    Resolved,
}

impl State {
    /// The word in alert rows and webhooks.
    pub fn word(self) -> &'static str {
        match self {
            State::Firing => "firing",
            State::Resolved => "resolved",
        }
    }
}

/// A change that somebody must hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which way.
    pub state: State,
    /// When it was noticed.
    pub at: Time,
    /// What it is about.
    pub finding: Finding,
}

/// All alarms that are pending or firing.
#[derive(Debug, Default)]
pub struct Alarms {
    open: BTreeMap<(Alarm, SourceId), Open>,
}

#[derive(Debug)]
struct Open {
    finding: Finding,
    first_seen: Time,
    last_seen: Time,
    firing: bool,
}

impl Alarms {
    /// Takes up alarms that rang before a restart, so that they are neither told twice nor lost.
    pub fn restore(&mut self, firing: impl IntoIterator<Item = Finding>, now: Time) {
        for finding in firing.into_iter().take(ALARMS_MAX) {
            let key = (finding.alarm, finding.source.clone());
            self.open.insert(key, Open { finding, first_seen: now, last_seen: now, firing: true });
        }
    }

    /// One round's findings, and the alarms that it could not judge; returns what changed.
    pub fn step(
        &mut self,
        findings: Vec<Finding>,
        unjudged: &[Alarm],
        now: Time,
        hysteresis: &Hysteresis,
    ) -> Vec<Change> {
        for open in self.open.values_mut().filter(|open| open.firing && unjudged.contains(&open.finding.alarm)) {
            open.last_seen = now;
        }
        for finding in findings {
            let key = (finding.alarm, finding.source.clone());
            if let Some(open) = self.open.get_mut(&key) {
                open.last_seen = now;
                open.finding = Finding { since: open.finding.since.min(finding.since), ..finding };
            } else if self.open.len() < ALARMS_MAX {
                self.open.insert(key, Open { finding, first_seen: now, last_seen: now, firing: false });
            }
        }
        let mut changes = Vec::new();
        self.open.retain(|_, open| open.advance(now, hysteresis, &mut changes));
        changes
    }

    /// Those that ring.
    pub fn firing(&self) -> impl Iterator<Item = &Finding> {
        self.open.values().filter(|open| open.firing).map(|open| &open.finding)
    }
}

impl Open {
    /// Moves on; whether it stays open.
    fn advance(&mut self, now: Time, hysteresis: &Hysteresis, changes: &mut Vec<Change>) -> bool {
        let standing = self.last_seen == now;
        if standing && !self.firing && clock::age(now, self.first_seen) >= hysteresis.hold {
            self.firing = true;
            changes.push(Change { state: State::Firing, at: now, finding: self.finding.clone() });
        }
        if standing {
            return true;
        }
        let over = clock::age(now, self.last_seen) >= hysteresis.clear;
        if self.firing && over {
            let summary = format!("over; it was: {}", self.finding.summary);
            let finding = Finding { summary, ..self.finding.clone() };
            changes.push(Change { state: State::Resolved, at: now, finding });
        }
        self.firing && !over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYSTERESIS: Hysteresis = Hysteresis { hold: Duration::from_secs(5), clear: Duration::from_secs(10) };

    fn at(second: i64) -> Time {
        clock::from_micros(second * 1_000_000)
    }

    fn finding() -> Finding {
        let source = SourceId::new("worker", "w1");
        Finding { alarm: Alarm::LogSilence, source, since: at(0), summary: "silent".to_owned() }
    }

    /// `pattern`: one character a second, `x` = the finding stands. Returns the changes as
    /// `F<second>` and `R<second>`.
    fn check(pattern: &str, expected: &str) {
        let mut alarms = Alarms::default();
        let mut told = Vec::new();
        for (second, seen) in pattern.chars().enumerate() {
            let findings = if seen == 'x' { vec![finding()] } else { Vec::new() };
            let now = at(i64::try_from(second).unwrap());
            for change in alarms.step(findings, &[], now, &HYSTERESIS) {
                let letter = if change.state == State::Firing { 'F' } else { 'R' };
                told.push(format!("{letter}{second}"));
            }
        }
        assert_eq!(told.join(" "), expected, "{pattern}");
    }

    #[test]
    fn it_fires_once_and_resolves_once() {
        check("....", "");
        check("xxxx......xxxx......", "");
        check("xxxxxxxxxx", "F5");
        check("xxxxxx...........", "F5 R15");
        check("xxxxxx.....x.........", "F5");
        check("xxxxxx...........xxxxxx", "F5 R15 F22");
    }

    #[test]
    fn a_restored_alarm_is_not_told_again_and_resolves() {
        let mut alarms = Alarms::default();
        alarms.restore([finding()], at(0));
        assert_eq!(alarms.step(vec![finding()], &[], at(1), &HYSTERESIS), []);
        assert_eq!(alarms.step(Vec::new(), &[Alarm::LogSilence], at(50), &HYSTERESIS), []);
        let changes = alarms.step(Vec::new(), &[Alarm::DatabaseAway], at(60), &HYSTERESIS);
        assert_eq!(changes.iter().map(|change| change.state).collect::<Vec<_>>(), [State::Resolved]);
        assert_eq!(alarms.firing().count(), 0);
    }
}
