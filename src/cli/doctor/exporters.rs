//! One record through recorder, spool and every exporter that is set up; where rows are read back, it
//! is read back.

use std::time::Duration;

use crate::cli::node::{self, ClientRecorder};
use crate::clock;
use crate::config::Config;
use crate::error;
use crate::explain::doctor::Finding;
use crate::store::{LogQuery, Store};
use crate::telemetry::shipper::{Facts, State};
use crate::telemetry::{DATABASE_SLOT, ExporterStatus};

/// Longest time the canary may take from the recorder to an exporter's other side, and to the row.
const CANARY_LIMIT: Duration = Duration::from_secs(15);
/// Period of looks for it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What became of the canary: a finding about the ring it was written to, and one an exporter.
pub(super) async fn canary(store: &dyn Store, config: &Config) -> Vec<Finding> {
    let recorder = match node::doctors_recorder(config) {
        Ok(recorder) => recorder,
        Err(failure) => {
            let fix = "correct what it names, or see the finding about the folder";
            return vec![Finding::problem("canary", format!("the recorder does not start: {failure:#}"), fix)];
        }
    };
    let mut findings = vec![ring(&recorder)];
    let mark = uuid::Uuid::new_v4().to_string();
    tracing::info!(canary = mark, "canary {mark}");
    let began = clock::monotonic();
    let took = || clock::monotonic().saturating_sub(began);
    recorder.flush();
    let is_settled = |facts: &Facts| has_taken(facts) || has_refused(facts);
    while !recorder.exporters().iter().all(|exporter| is_settled(&exporter.facts)) && took() < CANARY_LIMIT {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let exporters = recorder.exporters();
    for ExporterStatus { slot, facts } in &exporters {
        let is_read_back = *slot == DATABASE_SLOT && config.supabase.is_none();
        findings.push(match (has_taken(facts), is_read_back) {
            (false, _) => refused(facts),
            (true, false) => {
                Finding::ok("canary", format!("{} took it after {:.1} s", facts.exporter, took().as_secs_f64()))
            }
            (true, true) => read_back(store, &mark, facts.exporter).await,
        });
    }
    let _ = tokio::task::spawn_blocking(move || recorder.finish()).await;
    findings
}

fn ring(recorder: &ClientRecorder) -> Finding {
    let status = recorder.status();
    let evidence = format!("records are kept in {}: {}", status.ring_backing.replace('_', " "), status.promise);
    if status.ring_backing == "anonymous" {
        let fix = "put the data folder on ext4, xfs or tmpfs, or make /dev/shm writable";
        return Finding::warning("ring", evidence, fix);
    }
    Finding::ok("ring", evidence)
}

/// Whether everything that was said has arrived there.
fn has_taken(facts: &Facts) -> bool {
    facts.delivered > 0 && facts.pending.records == 0 && !has_refused(facts)
}

/// Whether something was refused for good.
fn has_refused(facts: &Facts) -> bool {
    facts.quarantined + facts.rejected > 0
}

fn refused(facts: &Facts) -> Finding {
    let error = facts.last_error.as_ref().map_or("no answer", |(_, text)| text);
    let evidence = if has_refused(facts) {
        format!("{} has refused it: {error}", facts.exporter)
    } else {
        format!("{} has not taken it within {} s: {error}", facts.exporter, CANARY_LIMIT.as_secs())
    };
    let fix = match &facts.state {
        _ if has_refused(facts) => "`dogwatch spool quarantine ls` shows what is set aside, and why".to_owned(),
        State::Blocked { remedy, .. } => remedy.clone(),
        _ => "see that it answers; until then records wait on disk (`dogwatch spool ls`)".to_owned(),
    };
    Finding::problem("canary", evidence, fix)
}

async fn read_back(store: &dyn Store, mark: &str, exporter: &str) -> Finding {
    let began = clock::monotonic();
    loop {
        let query = LogQuery { grep: Some(mark.to_owned()), limit: 1, ..LogQuery::default() };
        let took = clock::monotonic().saturating_sub(began);
        match store.logs(&query).await {
            Ok(rows) if !rows.is_empty() => {
                return Finding::ok(
                    "canary",
                    format!("{exporter} took it, and its row is read back from system_logs"),
                );
            }
            Ok(_) if took < CANARY_LIMIT => tokio::time::sleep(LOOK_EVERY).await,
            Ok(_) => {
                let evidence =
                    format!("{exporter} took it, and system_logs has no such row after {} s", took.as_secs());
                return Finding::problem("canary", evidence, "see whether a trigger or a policy changes rows");
            }
            Err(error) => return Finding::problem("canary", error::chain(&error), "see above"),
        }
    }
}
