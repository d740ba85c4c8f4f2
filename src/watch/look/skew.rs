//! How far the clocks of sources are from the database's.
//!
//! A row that arrives before it was made tells of a clock that is ahead. One that arrives late was made
//! by a clock that is behind, or it has waited: that is told apart only while the source's recorder
//! says that nothing waits. Until it can be told again the last value stands, for [`KEPT`], and after
//! that none: not known is not zero. Pure; all times are the database's, but for those at which rows
//! were made.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{self, Time};
use crate::watch::limits::PENDING_FEW;
use crate::watch::observation::{LiveSource, RecorderSeen, SourceId};

/// How long a value stands that cannot be told anew.
const KEPT: Duration = Duration::from_secs(300);
/// An older row says nothing of a clock.
const ROW_AGE_MAX: Duration = Duration::from_secs(60);
/// An older heartbeat does not say what waits: two periods of them and one of reading. What has waited
/// for longer is more than the limit of the rule, and would be taken for a clock.
const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(40);

/// What was last told of each source that lives.
#[derive(Debug, Default)]
pub(in crate::watch) struct Skews {
    told: BTreeMap<SourceId, Told>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Time,
    micros: i64,
}

impl Skews {
    /// Writes down at each source how far its clock is off; whoever is not among them is forgotten.
    pub(in crate::watch) fn tell(&mut self, now: Time, sources: &mut [LiveSource], recorders: &[RecorderSeen]) {
        let recorders: BTreeMap<&SourceId, &RecorderSeen> =
            recorders.iter().map(|recorder| (&recorder.source, recorder)).collect();
        let mut told = BTreeMap::new();
        for source in sources {
            let anew =
                micros(now, source, recorders.get(&source.id).copied()).map(|micros| Told { at: now, micros });
            let last = anew.or_else(|| self.told.get(&source.id).copied());
            let last = last.filter(|told| clock::age(now, told.at) < KEPT);
            source.skew_micros = last.map(|told| told.micros);
            told.extend(last.map(|last| (source.id.clone(), last)));
        }
        self.told = told;
    }
}

/// What the newest row tells; None: nothing.
fn micros(now: Time, source: &LiveSource, recorder: Option<&RecorderSeen>) -> Option<i64> {
    let (arrived, made) = (source.newest?, source.newest_made?);
    if clock::age(now, arrived) >= ROW_AGE_MAX {
        return None;
    }
    let micros = made.as_microsecond().saturating_sub(arrived.as_microsecond());
    let nothing_waits = |recorder: &RecorderSeen| {
        recorder.pending <= PENDING_FEW && clock::age(now, recorder.at) < HEARTBEAT_AGE_MAX
    };
    (micros >= 0 || recorder.is_some_and(nothing_waits)).then_some(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look: its second, the second at which the newest row arrived, how far its own time is off, and
    /// what the recorder last said: at which second, and how many records wait.
    type Look = (i64, Option<(i64, i64)>, Option<(i64, u64)>);

    fn at(second: i64) -> Time {
        clock::from_micros((1_000_000 + second) * 1_000_000)
    }

    /// The value of each look, seconds; `-` for none.
    fn check(looks: &[Look], expected: &str) {
        let mut skews = Skews::default();
        let id = SourceId::new("worker", "w1");
        let told = looks.iter().map(|&(now, row, heartbeat)| {
            let mut sources = [LiveSource {
                id: id.clone(),
                since: at(0),
                alive_at: at(now),
                newest: row.map(|(arrived, _)| at(arrived)),
                newest_made: row.map(|(arrived, off)| at(arrived + off)),
                skew_micros: None,
                is_orchestrator: false,
            }];
            let recorder = heartbeat.map(|(second, pending)| RecorderSeen {
                source: id.clone(),
                lost: 0,
                lost_at: None,
                spool_low: false,
                pending,
                blocked: Vec::new(),
                at: at(second),
            });
            skews.tell(at(now), &mut sources, recorder.as_slice());
            sources[0].skew_micros.map_or_else(|| "-".to_owned(), |micros| (micros / 1_000_000).to_string())
        });
        assert_eq!(told.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn ahead_needs_no_recorder_and_behind_needs_one_with_nothing_waiting() {
        check(&[(10, Some((9, 300)), None)], "300");
        check(&[(10, Some((9, -300)), None)], "-");
        check(&[(10, Some((9, -300)), Some((0, 0)))], "-300");
        check(&[(10, Some((9, -300)), Some((0, PENDING_FEW)))], "-300");
        check(&[(10, Some((9, -300)), Some((0, PENDING_FEW + 1)))], "-");
        check(&[(39, Some((38, -300)), Some((0, 0))), (40, Some((38, -300)), Some((0, 0)))], "-300 -300");
        check(&[(40, Some((38, -300)), Some((0, 0)))], "-");
        check(&[(10, None, Some((9, 0)))], "-");
    }

    #[test]
    fn what_cannot_be_told_stands_for_a_while_and_is_then_unknown_and_never_zero() {
        // Nothing is written between; then too much waits; then nobody hears of the recorder.
        let looks = [
            (0, Some((0, -300)), Some((0, 0))),
            (30, Some((0, -300)), Some((0, 0))),
            (60, Some((0, -300)), Some((0, 0))),
            (90, Some((80, -300)), Some((80, 5_000))),
            (120, Some((119, -300)), Some((80, 0))),
            (329, Some((119, -300)), Some((80, 0))),
            (330, Some((329, -300)), None),
        ];
        check(&looks, "-300 -300 -300 -300 -300 -300 -");
        // A clock that is ahead, and a source that then says no more.
        let looks = [0, 59, 60, 358, 359].map(|now| (now, Some((0, 300)), None));
        check(&looks, "300 300 300 300 -");
    }

    #[test]
    fn what_is_told_anew_counts_at_once_and_a_backlog_is_no_clock() {
        let right = |now: i64| (now, Some((now, 0)), Some((now, 0)));
        let late = |now: i64, off: i64, pending: u64| (now, Some((now, off)), Some((now - 5, pending)));
        check(&[late(0, -300, 0), right(5), late(10, 40, 0), right(15)], "-300 0 40 0");
        check(&[right(0), late(10, -600, 9_000), late(20, -300, 4_000), right(30)], "0 0 0 0");
        // An outage: what was last heard before it does not speak for what has waited since.
        check(&[right(0), (50, Some((50, -50)), Some((0, 0)))], "0 0");
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut skews = Skews::default();
        let mut source = LiveSource {
            id: SourceId::new("worker", "w1"),
            since: at(0),
            alive_at: at(0),
            newest: Some(at(0)),
            newest_made: Some(at(300)),
            skew_micros: None,
            is_orchestrator: false,
        };
        skews.tell(at(0), std::slice::from_mut(&mut source), &[]);
        assert_eq!(source.skew_micros, Some(300_000_000));
        skews.tell(at(1), &mut [], &[]);
        (source.newest, source.newest_made) = (None, None);
        skews.tell(at(2), std::slice::from_mut(&mut source), &[]);
        assert_eq!(source.skew_micros, None);
    }
}
