//! What one observation alone cannot say: for how many complete listings in a row something was there
//! or missing, and how many workers were desired lately.
//!
//! Kept by the process and written into each snapshot, so that the decision stays a function of it. A
//! start of the orchestrator begins with nothing, and nothing is the careful end of every rule that
//! reads this.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::{self, Time};
use crate::fleet::ids::{PodId, WorkerId};
use crate::fleet::snapshot::{Quality, Snapshot};

/// Decisions that are remembered at most.
const DECISIONS_MAX: usize = 10_000;

/// What is remembered from cycle to cycle.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Pods that are nobody's: when first seen, and complete listings in a row.
    unknown: HashMap<PodId, (Time, u32)>,
    /// Workers that a complete listing did not name: how many in a row.
    unlisted: HashMap<WorkerId, u32>,
    /// (instant, workers desired), oldest first.
    desired: VecDeque<(Time, u32)>,
}

impl Memory {
    /// Counts this observation and writes the counts into it. An incomplete listing counts nothing and
    /// forgets nothing.
    pub(super) fn add_to(&mut self, snapshot: &mut Snapshot) {
        let as_of = snapshot.as_of;
        let Some(live) = &mut snapshot.live else { return };
        let complete = live.inputs.provider.quality == Quality::Complete;
        let step = u32::from(complete);
        let mut unknown = HashMap::new();
        for pod in &mut live.unknown_pods {
            let (first, lists) = self.unknown.get(&pod.pod_id).copied().unwrap_or((as_of, 0));
            let lists = lists.saturating_add(step);
            (pod.first_seen_at, pod.lists) = (Some(first), lists);
            unknown.insert(pod.pod_id.clone(), (first, lists));
        }
        live.desired_lately = self.desired.iter().map(|(_, desired)| *desired).max();
        let mut unlisted = HashMap::new();
        for worker in snapshot.workers.iter_mut().filter(|worker| !worker.is_ended()) {
            let Some(live) = &mut worker.live else { continue };
            let before = self.unlisted.get(&worker.id).copied().unwrap_or(0);
            let lists = if live.pod.is_some() { 0 } else { before.saturating_add(step) };
            live.unlisted = Some(lists);
            unlisted.insert(worker.id.clone(), lists);
        }
        self.unlisted = unlisted;
        if complete {
            self.unknown = unknown;
        } else {
            self.unknown.extend(unknown);
        }
    }

    /// Remembers how many were desired, for `keep`.
    pub(super) fn decided(&mut self, desired: u32, keep: Duration, as_of: Time) {
        self.desired.push_back((as_of, desired));
        while self.desired.front().is_some_and(|(at, _)| clock::age(as_of, *at) >= keep)
            || self.desired.len() > DECISIONS_MAX
        {
            self.desired.pop_front();
        }
    }
}
