//! The grouping of a batch writes stored bytes behind each other without looking into them: whatever
//! they are, the request holds each of them whole, and of records that are right a receiver reads all.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use proptest::prelude::*;
use prost::Message as _;

use super::super::request;
use crate::telemetry::record::{Kind, Stored};
use crate::telemetry::tests::payloads::{any_payload, stored, valid};

/// The batch's payloads of that kind, in order.
fn of(batch: &[Stored], kind: Kind) -> Vec<&[u8]> {
    batch.iter().filter(|stored| stored.kind == kind).map(|stored| stored.payload.as_slice()).collect()
}

fn holds(body: &[u8], parts: &[&[u8]]) -> bool {
    let mut rest = body;
    parts.iter().all(|part| match rest.windows(part.len().max(1)).position(|window| window.starts_with(part)) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => part.is_empty(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_payloads_are_grouped_whole_and_in_order(
        payloads in prop::collection::vec((any::<bool>(), any_payload()), 1..20)
    ) {
        let kind = |is_log| if is_log { Kind::Log } else { Kind::Span };
        let batch: Vec<Stored> =
            (1..).zip(payloads).map(|(seq, (is_log, payload))| stored(seq, kind(is_log), payload)).collect();
        for kind in [Kind::Log, Kind::Span] {
            let parts = of(&batch, kind);
            match request::encode(&batch, kind) {
                Some(request) => {
                    prop_assert_eq!(request.records, parts.len() as u64);
                    prop_assert!(holds(&request.body, &parts));
                    let overhead = 4_096 * batch.len();
                    prop_assert!(request.body.len() <= parts.iter().map(|part| part.len()).sum::<usize>() + overhead);
                }
                None => prop_assert!(parts.is_empty()),
            }
        }
    }

    #[test]
    fn a_receiver_reads_every_valid_record(records in prop::collection::vec(valid(), 1..20)) {
        let batch: Vec<Stored> = (1..).zip(records).map(|(seq, (kind, payload))| stored(seq, kind, payload)).collect();
        if let Some(logs) = request::encode(&batch, Kind::Log) {
            let logs = ExportLogsServiceRequest::decode(&*logs.body).unwrap();
            let found = logs.resource_logs.iter().flat_map(|each| &each.scope_logs).flat_map(|each| &each.log_records);
            prop_assert_eq!(found.map(|record| record.encode_to_vec()).collect::<Vec<_>>(), of(&batch, Kind::Log));
        }
        if let Some(spans) = request::encode(&batch, Kind::Span) {
            let spans = ExportTraceServiceRequest::decode(&*spans.body).unwrap();
            let found = spans.resource_spans.iter().flat_map(|each| &each.scope_spans).flat_map(|each| &each.spans);
            prop_assert_eq!(found.map(|span| span.encode_to_vec()).collect::<Vec<_>>(), of(&batch, Kind::Span));
        }
    }
}
