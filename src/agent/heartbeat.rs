//! Beats on a task of its own, never behind a program or a claim.
//!
//! A beat that gets no answer is followed by another after a growing wait, never longer than the
//! period. What the answer orders is done at once, see [`Shared::obey`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::AgentEnd;
use super::client::{CallError, Client};
use super::shared::Shared;
use crate::rpc::{Function, Heartbeat, Orders};
use crate::supervise::Pulse;
use crate::supervise::task::Stop;

/// What the beats of one incarnation go on from, also after a restart of their task.
#[derive(Debug)]
pub(super) struct Beats {
    pub(super) client: Arc<Client>,
    pub(super) shared: Arc<Shared>,
    pub(super) period: Duration,
    seq: AtomicI64,
}

impl Beats {
    pub(super) fn new(client: Arc<Client>, shared: Arc<Shared>, period: Duration) -> Beats {
        Beats { client, shared, period, seq: AtomicI64::new(0) }
    }

    /// Beats until `stop` is raised.
    pub(super) async fn run(&self, pulse: &Pulse, mut stop: Stop) {
        let mut failures = 0;
        loop {
            pulse.beat();
            let wait = match self.beat().await {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(failures, "the base answers again");
                    }
                    failures = 0;
                    pulse.progress();
                    self.period
                }
                Err(error) => {
                    tell(&error, failures);
                    failures += 1;
                    error.wait(failures - 1).min(self.period)
                }
            };
            tokio::select! {
                raised = stop.raised_within(wait) => if raised { return },
                () = self.shared.beat_now() => {}
            }
        }
    }

    async fn beat(&self) -> Result<(), CallError> {
        let doing = self.shared.doing();
        let beat = Heartbeat {
            seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1,
            phase: doing.phase,
            progress_seq: self.shared.progress_seq(),
            current_task: doing.task,
            gpu: None,
            metrics: json!({}),
        };
        match self.client.call::<_, Orders>(Function::Heartbeat, &beat).await {
            Ok(orders) => {
                self.shared.in_contact();
                self.shared.obey(&orders, doing);
                Ok(())
            }
            Err(CallError::Stop { detail, .. }) => {
                self.shared.leave(AgentEnd::Superseded { detail });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// One line when an outage begins; every one for what only a human can mend.
fn tell(error: &CallError, failures: u32) {
    match error {
        CallError::Retry { .. } if failures > 0 => tracing::debug!(%error, failures, "the base does not answer"),
        CallError::Retry { .. } => tracing::warn!(%error, "the base does not answer; the program goes on"),
        _ => tracing::error!(%error, "the base does not understand us: is the base URL right?"),
    }
}
