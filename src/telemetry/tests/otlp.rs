//! OTLP through the whole recorder: ring, spool, shipper, delivery and a receiver on loopback that
//! fails in every way. At the end of each the law holds from disk alone, everything that was taken
//! for delivered was in a request that the receiver took, in order, and the database exporter
//! beside it had everything while the receiver failed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use reqwest::Url;

use super::rig::{APP, App, Rig, Sum, until};
use crate::clock::{self, Time};
use crate::telemetry::exporter::otlp::{Compression, Endpoint, OtlpConfig, OtlpExporter};
use crate::telemetry::exporter::receiver::{Receiver, Reply, Request};
use crate::telemetry::record::Level;
use crate::telemetry::shipper::{Facts, State};
use crate::telemetry::spool::disk::RealDisk;
use crate::telemetry::spool::{quarantine, verify};
use crate::telemetry::{Guard, OTLP_SLOT};

const RECORDS: usize = 100;

type Answer = dyn FnMut(&[String]) -> Reply + Send;

/// A receiver whose answers change, and what it took.
#[derive(Clone, Default)]
struct Script {
    answer: Arc<Mutex<Option<Box<Answer>>>>,
    /// Texts of the program's records in each request that was taken, in the order of arrival.
    taken: Arc<Mutex<Vec<String>>>,
}

impl Script {
    /// From here on `answer` says what becomes of a request with these texts.
    fn answers(&self, answer: impl FnMut(&[String]) -> Reply + Send + 'static) {
        *self.answer.lock().unwrap() = Some(Box::new(answer));
    }

    fn heals(&self) {
        *self.answer.lock().unwrap() = None;
    }

    fn start(&self) -> Receiver {
        let script = self.clone();
        Receiver::start(move |request| {
            let texts = texts(request);
            let reply = script.answer.lock().unwrap().as_mut().map_or_else(Reply::taken, |answer| answer(&texts));
            if matches!(reply, Reply::Http { status: 200, .. }) {
                script.taken.lock().unwrap().extend(texts);
            }
            reply
        })
    }

    /// Each text once, in the order of its first arrival.
    fn arrived(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut taken = self.taken.lock().unwrap().clone();
        taken.retain(|text| seen.insert(text.clone()));
        taken
    }
}

/// The texts of the program's records.
fn texts(request: &Request) -> Vec<String> {
    let mut texts = Vec::new();
    for resource in request.logs().resource_logs {
        let attributes = resource.resource.unwrap_or_default().attributes;
        let is_ours = attributes.iter().any(|pair| {
            let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
            pair.key == "dogwatch.source_id" && matches!(value, Some(Any::StringValue(id)) if id == APP)
        });
        let records = resource.scope_logs.into_iter().flat_map(|scope| scope.log_records);
        texts.extend(records.filter(|_| is_ours).filter_map(|record| match record.body?.value? {
            Any::StringValue(text) => Some(text),
            _ => None,
        }));
    }
    texts
}

/// A recorder with the database exporter that always works, and OTLP.
struct Scene {
    rig: Rig,
    guard: Guard,
    accepted: Vec<String>,
    script: Script,
    _receiver: Receiver,
}

impl Scene {
    /// The receiver answers as `answer` says, and the program has spoken.
    fn new(patience: Duration, answer: impl FnMut(&[String]) -> Reply + Send + 'static) -> Scene {
        let script = Script::default();
        let receiver = script.start();
        script.answers(answer);
        let endpoint = Endpoint {
            url: Url::parse(&format!("{}/v1/logs", receiver.base)).unwrap(),
            headers: vec![("api-key".into(), "marked-secret".into())],
            timeout: patience,
            compression: Compression::Gzip,
            certificate: None,
            identity: None,
        };
        let config = OtlpConfig { logs: Some(endpoint), traces: None, batch_max: 512, linger: Duration::ZERO };
        let mut rig = Rig::new();
        rig.more.push((OTLP_SLOT, Box::new(OtlpExporter::new(config).unwrap())));
        let guard = rig.start();
        let mut app = App::new(&guard);
        app.talk(Level::Info, RECORDS);
        let accepted = app.accepted;
        assert_eq!(accepted.len(), RECORDS);
        // One exporter's outage delays no other (I5).
        until("the database exporter has all", || rig.far.texts().len() == RECORDS);
        Scene { rig, guard, accepted, script, _receiver: receiver }
    }

    fn facts(&self) -> Facts {
        self.guard.exporters().into_iter().find(|exporter| exporter.slot == OTLP_SLOT).unwrap().facts
    }

    /// Waits until it stands as `is_so` says.
    fn stands(&self, what: &str, is_so: impl Fn(&Facts) -> bool) -> Facts {
        until(what, || is_so(&self.facts()));
        self.facts()
    }

    /// The receiver works again: all that is pending is delivered, and the law holds.
    fn end(self) -> (Sum, Script, Vec<String>) {
        self.script.heals();
        until("all is delivered", || self.guard.wait_delivered(|_| ()));
        let shutdown = self.guard.shutdown(Duration::from_secs(20));
        assert_eq!((shutdown.pending, shutdown.lost), (0, 0));
        assert_eq!(self.rig.far.texts(), self.accepted);
        self.rig.law();
        let mut sum = Sum::default();
        for line in verify(&RealDisk, self.rig.dir.path()).unwrap() {
            if line.exporter == OTLP_SLOT {
                let (dropped, refused) = (line.dropped.values().sum(), line.refused.values().sum());
                sum.add(&line, dropped, refused);
            }
        }
        assert_eq!(sum.pending, 0);
        assert_eq!(sum.delivered + sum.dropped + sum.quarantined, sum.offered, "{sum:?}");
        let set_aside = quarantine::list(&RealDisk, self.rig.dir.path()).unwrap();
        let set_aside = set_aside.iter().filter(|(name, _)| name.contains(".poison.otlp.")).count();
        assert_eq!(set_aside as u64, sum.quarantined, "what is quarantined is kept");
        (sum, self.script, self.accepted)
    }

    /// The same, with nothing dropped or set aside.
    fn ends_with_everything(self) {
        let (sum, script, accepted) = self.end();
        assert_eq!((sum.dropped, sum.quarantined), (0, 0), "{sum:?}");
        assert_eq!(script.arrived(), accepted);
    }
}

fn patience() -> Duration {
    Duration::from_secs(20)
}

/// How long after `now` a state holds on.
fn holds_for(state: &State, now: Time) -> Duration {
    let (State::Retrying { until } | State::Blocked { until, .. }) = state else { panic!("{state:?}") };
    clock::age(*until, now)
}

#[test]
fn retry_after_is_kept_to_in_both_forms_and_nothing_is_lost() {
    let in_a_minute = || {
        let at = clock::plus(clock::now(), Duration::from_secs(60)).as_microsecond();
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_micros(at as u64))
    };
    for header in [|| "60".to_owned(), || String::new()] {
        let value = Some(header()).filter(|text| !text.is_empty()).unwrap_or_else(in_a_minute);
        let began = clock::now();
        let scene =
            Scene::new(patience(), move |_| Reply::text(429, &format!("Retry-After: {value}\r\n"), "slow down"));
        let facts = scene.stands("429", |facts| facts.retries > 0);
        let wait = holds_for(&facts.state, began);
        assert!(wait >= Duration::from_secs(55), "{wait:?}");
        assert!(facts.last_error.unwrap().1.contains("429"));
        assert_eq!(scene.script.arrived(), Vec::<String>::new());
        scene.ends_with_everything();
    }
}

#[test]
fn an_outage_of_each_kind_delays_and_loses_nothing() {
    let kinds: [(&str, Reply); 7] = [
        ("502", Reply::status(502)),
        ("503", Reply::status(503)),
        ("504", Reply::status(504)),
        ("closed without a word", Reply::Close),
        ("garbage", Reply::Raw(b"\x16\x03\x01\x02\x00SSH-2.0 garbage\r\n\r\n")),
        ("half an answer", Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf")),
        ("a receipt's head only", Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Le")),
    ];
    for (name, reply) in kinds {
        let scene = Scene::new(patience(), move |_| reply.clone());
        let facts = scene.stands(name, |facts| facts.retries >= 3);
        assert!(matches!(facts.state, State::Retrying { .. } | State::Delivering), "{name}: {:?}", facts.state);
        scene.ends_with_everything();
    }
}

#[test]
fn a_hang_and_a_half_open_connection_are_abandoned_by_the_deadline() {
    for reply in [Reply::Hang, Reply::HalfOpen(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")] {
        let scene = Scene::new(Duration::from_millis(200), move |_| reply.clone());
        let facts = scene.stands("abandoned", |facts| facts.retries >= 2);
        assert!(facts.last_error.unwrap().1.contains("no answer"));
        scene.ends_with_everything();
    }
}

#[test]
fn a_key_that_is_refused_holds_everything_until_it_is_lifted() {
    for status in [401, 403] {
        let scene = Scene::new(patience(), move |_| Reply::text(status, "", "no such key: marked-secret"));
        let facts = scene.stands("blocked", |facts| matches!(facts.state, State::Blocked { .. }));
        let State::Blocked { remedy, .. } = &facts.state else { unreachable!() };
        assert!(remedy.contains("OTEL_EXPORTER_OTLP_HEADERS"), "{remedy}");
        assert!(!format!("{facts:?}").contains("marked-secret"), "{facts:?}");
        assert!(!scene.guard.wait_delivered(|_| ()), "somebody must act");
        scene.ends_with_everything();
    }
}

#[test]
fn a_request_that_is_too_large_is_split_until_it_fits() {
    let scene = Scene::new(patience(), |texts| if texts.len() > 7 { Reply::status(413) } else { Reply::taken() });
    until("all has arrived", || scene.script.arrived().len() == RECORDS);
    scene.ends_with_everything();
}

#[test]
fn an_internal_error_over_one_record_sets_it_aside_and_is_not_tried_again() {
    // 500 must not be retried by OTLP's rules: the record is found, kept and counted, never lost.
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let scene = Scene::new(patience(), move |texts| {
        if texts.iter().any(|text| text == "record 33") {
            *count.lock().unwrap() += u32::from(texts.len() == 1);
            return Reply::status(500);
        }
        Reply::taken()
    });
    until("all others have arrived", || scene.script.arrived().len() == RECORDS - 1);
    let facts = scene.stands("set aside", |facts| facts.quarantined == 1);
    assert_eq!(facts.retries, 0);
    let (sum, script, mut accepted) = scene.end();
    accepted.retain(|text| text != "record 33");
    assert_eq!((sum.quarantined, sum.dropped), (1, 0));
    assert_eq!(script.arrived(), accepted);
    assert_eq!(*asked.lock().unwrap(), 1, "alone it was asked for once");
}

#[test]
fn a_receiver_that_refuses_everything_is_at_fault_and_is_held() {
    let scene = Scene::new(patience(), |_| Reply::status(500));
    let facts = scene.stands("held", |facts| matches!(facts.state, State::Blocked { .. }));
    // A long run of refusals is no poison: one record a probe, and no more.
    assert!(facts.quarantined < 30, "{facts:?}");
    let (sum, script, accepted) = scene.end();
    let arrived = script.arrived();
    assert!(sum.quarantined >= 16 && sum.dropped == 0, "{sum:?}");
    assert!(accepted.ends_with(&arrived) && arrived.len() > RECORDS / 2, "{arrived:?}");
}

#[test]
fn what_the_receiver_rejects_is_dropped_counted_told_and_never_sent_again() {
    let scene = Scene::new(patience(), |texts| {
        let rejected = texts.iter().filter(|text| text.ends_with('7')).count();
        Reply::partial(rejected as i64, "too old")
    });
    let facts = scene.stands("taken and told", |facts| facts.rejected == 10 && facts.last_error.is_some());
    assert_eq!((facts.retries, facts.quarantined), (0, 0));
    assert!(facts.last_error.unwrap().1.contains("too old"));
    let (sum, script, accepted) = scene.end();
    assert_eq!((sum.dropped, sum.quarantined), (10, 0));
    assert_eq!(sum.delivered, sum.offered - 10, "rejected is never delivered");
    assert_eq!(script.taken.lock().unwrap().len(), accepted.len(), "nothing was sent twice");
}

#[test]
fn an_answer_that_is_lost_gives_records_twice_and_in_order() {
    let first = Arc::new(Mutex::new(Vec::new()));
    let lost = Arc::clone(&first);
    let scene = Scene::new(patience(), move |texts| {
        lost.lock().unwrap().extend(texts.to_vec());
        Reply::Close
    });
    scene.stands("the answer is lost", |facts| facts.retries > 0);
    assert!(!first.lock().unwrap().is_empty());
    scene.ends_with_everything();
}
