//! The way works: both kinds of key, calls within the limits, a call that is made twice.

use std::time::Duration;

use dogwatch::telemetry::exporter::supabase::{SupabaseConfig, SupabaseExporter};
use dogwatch::telemetry::exporter::{ExportError, Exported, Exporter as _};
use dogwatch::telemetry::record::{Kind, Level, Source, Stored};
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use uuid::Uuid;

use super::{Scene, migrated};
use crate::postgres_rig::Cluster;
use crate::postgrest_rig::{Fault, Project, SECRET_KEY, SERVICE_JWT};

#[test]
fn keys_of_both_kinds_open_and_each_record_is_one_row() {
    for (key, has_bearer) in [(SECRET_KEY, false), (SERVICE_JWT, true)] {
        let mut scene = Scene::with_key(Cluster::shared().database(), key);
        scene.talk(2_500);
        assert!(scene.guard.wait_delivered(|_| ()));
        let seen = scene.project.seen();
        assert!(seen.iter().all(|call| call.status == Some(200) && call.bytes <= 1 << 20), "{seen:?}");
        assert!(seen.iter().all(|call| call.function == "dw_insert_logs"));
        assert!(seen.iter().all(|call| call.headers.contains("authorization:") == has_bearer));
        assert_eq!(scene.end(), 0);
    }
}

fn stored(seq: u64, text: &str) -> Stored {
    let body = Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    let record = LogRecord { time_unix_nano: 1_790_000_000_000_000_000 + seq, body, ..LogRecord::default() };
    let source = Source { source_type: "external".into(), source_id: "app".into(), resource: Vec::new() };
    Stored {
        seq,
        kind: Kind::Log,
        level: Level::Info,
        source: source.into(),
        boot: Uuid::from_u128(7),
        payload: record.encode_to_vec(),
    }
}

#[test]
fn an_answer_that_never_comes_is_abandoned_and_the_repeated_call_adds_nothing() {
    let database = migrated(Cluster::shared().database());
    let project = Project::start(&database);
    let config = SupabaseConfig::new(&project.url, "SUPABASE_SECRET_KEY", SECRET_KEY).unwrap();
    let mut exporter = SupabaseExporter::new(config).unwrap();
    let batch: Vec<Stored> =
        (0..1_500).map(|seq| stored(seq, "text \u{0} with \"all\" \u{1f980} \\ \n kinds")).collect();
    let now = dogwatch::clock::now();
    project.next(Fault::HangAfterCommit);
    let late = exporter.export(&batch, now, Duration::from_secs(2));
    assert!(matches!(late, Err(ExportError::Retry { .. })), "{late:?}");
    let all = Exported { delivered: 1_500, rejected: 0 };
    for _ in 0..2 {
        assert_eq!(exporter.export(&batch, now, Duration::from_secs(20)), Ok(all));
        assert_eq!(database.count("system_logs"), 1_500);
    }
    let text = database.ask("select distinct message from system_logs");
    assert_eq!(text, "text  with \"all\" \u{1f980} \\ \n kinds");
    let notes = database.ask("select distinct metadata -> 'row_notes' from system_logs");
    assert_eq!(notes, r#"{"nul_removed": 1}"#);
}
