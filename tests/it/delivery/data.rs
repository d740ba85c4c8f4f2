//! Records that are hard to keep: from other times, of all sizes, with characters that no database
//! takes. None of them is poison.

use std::time::Duration;

use dogwatch::clock;

use super::scene::{Scene, migrated};
use crate::postgres_rig::Cluster;

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_clock_that_moved_loses_no_record() {
    let database = migrated(Cluster::shared());
    let mut scene = Scene::new(&database);
    let now = clock::now();
    let times = [now, clock::minus(now, DAY * 400), clock::plus(now, DAY * 3), clock::plus(now, DAY * 30_000)];
    for time in times.into_iter().chain([clock::from_micros(1), now]) {
        scene.send_at(200, time);
    }
    scene.delivered();
    assert_eq!(database.count("dogwatch.system_logs_default"), 600, "nobody's days");
    assert_eq!(scene.end().quarantined, 0);
}

#[test]
fn a_backlog_of_a_week_arrives_and_stays_as_long_as_everything_else() {
    let database = migrated(Cluster::shared());
    let mut scene = Scene::new(&database);
    for days in (0..8).rev() {
        scene.send_at(400, clock::minus(clock::now(), DAY * days));
    }
    scene.delivered();
    let maintain = |now: &str| database.ask(&format!("select dogwatch.maintain_logs({now}, '48 hours')->>'moved'"));
    // The exporter has asked for the housekeeping after its first batch, with this one's rows or not.
    maintain("now()");
    assert_eq!(database.count("dogwatch.system_logs_default"), 0);
    assert_eq!(database.count("system_logs where message like 'record %'"), 3_200);
    maintain("now() + interval '47 hours'");
    assert_eq!(scene.end().pending, 0);
}
