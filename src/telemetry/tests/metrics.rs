//! Every series that the recorder tells of itself moves when the fault it tells of is staged, and
//! then has the right value on the metrics page; what is in the heartbeat record is checked there, too.
//!
//! A page belongs to a whole process, so each scene has one of its own. What has to move is counted
//! up from the catalogue: a series without a scene fails the test.

mod exporters;
mod page;
mod ring;
mod threads;

use std::collections::BTreeSet;
use std::process::Command;

use self::page::{MOVED, Page, key};
use crate::catalogue::{self, Metric};
use crate::telemetry::record::Level;
use crate::telemetry::ring::{Aside, Refused};

/// Says to a process of its own which scene is its.
const SCENE: &str = "DOGWATCH_TEST_METRICS_SCENE";
const CHILD: &str = "telemetry::tests::metrics::scene_in_a_process_of_its_own";

/// Its name, and what happens in it.
type Scene = (&'static str, fn(&Page));

const SCENES: &[Scene] = &[
    ("delivered", exporters::delivered),
    ("down", exporters::down),
    ("blocked", exporters::blocked),
    ("poisoned", exporters::poisoned),
    ("hanging", exporters::hanging),
    ("damaged", exporters::damaged),
    ("removed", exporters::removed),
    ("expired", exporters::expired),
    ("pushed", exporters::pushed),
    ("refused", ring::refused),
    ("nearly full", ring::nearly_full),
    ("disk full", ring::disk_full),
    ("half written", ring::half_written),
    ("slow sync", ring::slow_sync),
    ("panics", threads::panics),
    ("given up", threads::given_up),
    ("heartbeat", threads::heartbeat),
];

/// Does nothing by itself: [`each_series_of_the_recorder_moves_with_its_fault`] starts it in a
/// process of its own, once for each scene.
#[test]
fn scene_in_a_process_of_its_own() {
    #[expect(clippy::disallowed_methods, reason = "how the parent tells its child what to play")]
    let Ok(name) = std::env::var(SCENE) else { return };
    let (_, scene) = SCENES.iter().find(|(known, _)| *known == name).unwrap();
    let page = Page::install();
    scene(&page);
    page.holds_nothing_but(catalogue::RECORDER);
}

#[test]
fn each_series_of_the_recorder_moves_with_its_fault() {
    let mut moved = BTreeSet::new();
    for (name, _) in SCENES {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command.args([CHILD, "--exact", "--nocapture", "--test-threads=1"]).env(SCENE, name);
        let output = command.output().unwrap();
        let (out, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "scene `{name}`:\n{out}\n{told}");
        // The harness writes its own words before the first line.
        moved.extend(out.lines().filter_map(|line| Some(line.split_once(MOVED)?.1.to_owned())));
    }
    let all = all_series();
    let unmoved: Vec<_> = all.difference(&moved).collect();
    assert!(unmoved.is_empty(), "no scene moves these: {unmoved:#?}");
    println!("{} metrics, {} series, each moved by its fault", catalogue::RECORDER.len(), all.len());
}

/// Every series of the recorder's metrics that a fault can move, with one exporter.
fn all_series() -> BTreeSet<String> {
    catalogue::RECORDER
        .iter()
        .flat_map(|metric| labels_of(metric).into_iter().map(|labels| key(metric, &labels)))
        .collect()
}

type Labels = Vec<(&'static str, &'static str)>;

fn labels_of(metric: &Metric) -> Vec<Labels> {
    let one = |label: &'static str, values: &[&'static str]| -> Vec<Labels> {
        values.iter().map(|value| vec![(label, *value)]).collect()
    };
    let per_exporter = metric.help.contains("label `exporter`");
    match *metric {
        catalogue::RECORDS_REFUSED => refusals(),
        catalogue::RECORDS_DROPPED => drops(),
        catalogue::THREAD_RESTARTS | catalogue::THREAD_GIVEN_UP => one("thread", &threads::NAMES),
        catalogue::METRICS_PUSHES => one("result", &["ok", "failed"]),
        catalogue::LOGS_EXPIRED => one("reason", &["age", "size"]),
        _ if per_exporter => one("exporter", &["far"]),
        _ => vec![vec![]],
    }
}

fn refusals() -> Vec<Labels> {
    let all = Refused::COUNTED.iter().flat_map(|reason| Level::ALL.map(|level| (*reason, level)));
    let can_be = |(reason, level): &(Refused, Level)| {
        !matches!(reason, Refused::AboveNinety | Refused::SpoolLow) || *level <= Level::Info
    };
    all.filter(can_be).map(|(reason, level)| vec![("reason", reason.word()), ("level", level.word())]).collect()
}

fn drops() -> Vec<Labels> {
    let before = Aside::LOST.iter().map(|aside| vec![("exporter", "all"), ("reason", aside.word())]);
    let of_exporter = ["rejected", "evicted", "corrupt", "absent"];
    let after = of_exporter.iter().map(|reason| vec![("exporter", "far"), ("reason", *reason)]);
    before.chain(after).chain([vec![("exporter", exporters::GONE), ("reason", "exporter_removed")]]).collect()
}
