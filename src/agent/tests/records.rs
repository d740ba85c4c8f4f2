//! A program's output as records.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::super::capture::TARGET;
use super::{Base, config, run, shell};

/// A record: its level and fields.
type Seen = Arc<Mutex<Vec<BTreeMap<String, String>>>>;

struct Keep(Seen);

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != TARGET {
            return;
        }
        let mut fields = Fields(BTreeMap::from([("level".into(), event.metadata().level().to_string())]));
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }
}

struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

/// Records of a program that runs `script`.
async fn records(script: &str) -> Vec<BTreeMap<String, String>> {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry().with(Keep(Arc::clone(&seen)));
    crate::telemetry::quiet::beside_other_tests();
    let _default = tracing::subscriber::set_default(subscriber);
    let base = Base::with_commands(&[shell(script)]).await;
    run(config(&base)).await;
    let records = seen.lock().unwrap().clone();
    let task = &base.calls("dw_complete_task")[0]["task_id"];
    for record in &records {
        assert_eq!((record["worker_id"].as_str(), record["attempt"].as_str()), ("gpu-1", "1"));
        assert_eq!(json!(record["task_id"]), *task);
    }
    records
}

#[tokio::test]
async fn every_line_is_a_record_with_its_task_and_stream() {
    let script = r#"printf 'one\n\ntwo \377\n'; printf '{"message": "three", "level": "error", "step": 3}'
        printf 'warns\n' >&2"#;
    let mut seen: Vec<String> = records(script)
        .await
        .iter()
        .map(|r| {
            let attributes = r.get("attributes").map(String::as_str).unwrap_or_default();
            format!("{} {} {} {attributes}", r["stream"], r["level"], r["message"])
        })
        .collect();
    seen.sort();
    let expected =
        ["stderr WARN warns ", "stdout ERROR three {\"step\":3}", "stdout INFO one ", "stdout INFO two \u{fffd} "];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn no_line_of_a_flood_is_lost_and_the_order_stays() {
    let records = records("i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done").await;
    let numbers: Vec<usize> = records.iter().map(|record| record["message"].parse().unwrap()).collect();
    assert_eq!(numbers, (0..5_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_traceback_is_one_record_also_without_an_end() {
    let script = r"printf 'Traceback (most recent call last):\n  File \042a.py\042, line 1\nKeyError: 1\n' >&2";
    let records = records(script).await;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0]["level"], "ERROR");
    assert!(records[0]["message"].starts_with("Traceback") && records[0]["message"].ends_with("KeyError: 1"));
}
