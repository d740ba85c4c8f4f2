//! The dead-man's switch: somebody outside who rings when the watch falls silent.
//!
//! In the way of healthchecks.io: `<address>/start` when the watch starts, `<address>` every period
//! while its rounds go on, `<address>/fail` where an alarm could be told to nobody else. What is not
//! pinged any more rings there, which is the only way in which the watch's own death is heard. A
//! watch that is stopped on purpose is silent, too: pause the check first.

use std::time::Duration;

use super::{Untold, say, target::Target};
use crate::supervise::task::Group;
use crate::supervise::{Intensity, Pulse};

/// What is asked before each ping.
#[derive(Debug, Clone)]
pub(super) struct Vital {
    pub(super) rounds: Pulse,
    pub(super) silent_max: Duration,
    pub(super) untold: Untold,
}

/// Starts the pings.
pub(super) fn start(target: Target, every: Duration, vital: Vital, group: &Group) {
    group.start("deadman", Intensity::default(), move |_, mut stop| {
        let (target, vital) = (target.clone(), vital.clone());
        async move {
            ping(&target, "start", String::new()).await;
            let mut told = vital.untold.total();
            while !stop.raised_within(every).await {
                let untold = vital.untold.total();
                if untold > told {
                    let text = format!("{} alarms could not be told: look at `dogwatch alerts`", untold - told);
                    if ping(&target, "fail", text).await {
                        told = untold;
                    }
                } else if vital.rounds.progress_count() > 0 && vital.rounds.silent_for() < vital.silent_max {
                    ping(&target, "", String::new()).await;
                }
            }
        }
    });
}

async fn ping(target: &Target, path: &str, text: String) -> bool {
    match target.post_text(path, text).await {
        Ok(()) => true,
        Err(error) => {
            say(&format!("the dead-man's switch was not reached: {error}"));
            false
        }
    }
}
