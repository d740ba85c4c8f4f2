//! The database is away, slow, locked or full, or the wire is cut: delivery goes on by itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dogwatch::telemetry::OTLP_SLOT;
use dogwatch::telemetry::exporter::otlp::{Compression, Endpoint, OtlpConfig};
use dogwatch::telemetry::shipper::State;
use opentelemetry_proto::tonic::common::v1::any_value::Value;

use super::proxy::Proxy;
use super::scene::{SOURCES, Scene, migrated};
use crate::flows::rig::is_long;
use crate::postgres_rig::{Cluster, Durability, Stop, until};
use crate::receiver_rig::{Receiver, Reply};

#[test]
fn a_killed_and_a_restarted_server_get_every_record_once() {
    let mut cluster = Cluster::start(Durability::Full);
    let database = migrated(&cluster);
    let mut scene = Scene::new(&database);
    scene.send(500);
    scene.delivered();
    for how in [Stop::Immediate, Stop::Fast] {
        scene.send(1_000);
        cluster.stop(how);
        scene.send(2_000);
        scene.retrying();
        cluster.resume();
        scene.send(500);
        scene.delivered();
    }
    assert_eq!(scene.end().pending, 0);
}

#[test]
fn an_outage_under_load_is_caught_up_with() {
    // Five minutes at 1,000 records a second; five seconds where nobody asked for more.
    let time = Duration::from_secs(if is_long() { 300 } else { 5 });
    let mut cluster = Cluster::start(Durability::Full);
    let database = migrated(&cluster);
    let mut scene = Scene::new(&database);
    scene.send(SOURCES);
    scene.delivered();
    cluster.stop(Stop::Immediate);
    scene.stream(1_000, time);
    assert!(matches!(scene.facts().state, State::Retrying { .. } | State::Delivering));
    assert!(scene.facts().pending.records >= 1_000);
    cluster.resume();
    scene.delivered();
    let account = scene.end();
    assert!(account.delivered >= 1_000 * time.as_secs() && account.pending == 0, "{account:?}");
}

#[test]
fn an_answer_that_never_comes_after_the_commit_doubles_no_row() {
    let cluster = Cluster::shared();
    let database = migrated(cluster);
    let proxy = Proxy::to(cluster.port());
    let mut scene = Scene::at(&database, &database.url_at(crate::postgres_rig::ADMIN, proxy.port()));
    scene.send(100);
    scene.delivered();
    for _ in 0..3 {
        let before = (proxy.swallowed(), scene.facts().retries);
        proxy.swallow_answers(1);
        scene.send(1_000);
        scene.delivered();
        assert_eq!((proxy.swallowed(), scene.facts().retries > before.1), (before.0 + 1, true));
    }
    assert_eq!(scene.end().pending, 0);
}

#[test]
fn a_slow_wire_is_slow_and_nothing_else() {
    let cluster = Cluster::shared();
    let database = migrated(cluster);
    let proxy = Proxy::to(cluster.port());
    proxy.delay(Duration::from_millis(60));
    let mut scene = Scene::at(&database, &database.url_at(crate::postgres_rig::ADMIN, proxy.port()));
    scene.send(3_000);
    scene.delivered();
    assert_eq!((scene.facts().retries, scene.end().quarantined), (0, 0));
}

#[test]
fn a_locked_table_is_waited_for() {
    let database = migrated(Cluster::shared());
    let mut scene = Scene::new(&database);
    scene.send(100);
    scene.delivered();
    std::thread::scope(|scope| {
        let locker = scope.spawn(|| {
            database.run("begin; lock table system_logs in access exclusive mode; select pg_sleep(5); commit")
        });
        let held = "select count(*) from pg_locks where relation = 'system_logs'::regclass and mode = 'AccessExclusiveLock'";
        until("the lock", || database.ask(held) != "0");
        scene.send(1_000);
        assert!(scene.retrying().contains("lock timeout"), "{:?}", scene.facts());
        locker.join().unwrap();
    });
    scene.delivered();
    assert_eq!(scene.end().pending, 0);
}

#[test]
fn a_full_disk_is_waited_for() {
    let cluster = Cluster::start(Durability::Relaxed);
    let Some(small) = Small::mount(&cluster) else { return };
    cluster.admin().run(&format!("create tablespace small location '{}'", small.0.join("space").display()));
    let database = cluster.admin().named("on_small");
    cluster.admin().run("create database on_small tablespace small");
    super::scene::migrate(&database);
    let mut scene = Scene::new(&database);
    scene.send(100);
    scene.delivered();
    let filler = small.0.join("filler");
    let _ = std::fs::write(&filler, vec![1; 64 << 20]);
    scene.send(20_000);
    assert!(scene.retrying().contains("No space left"), "{:?}", scene.facts());
    std::fs::remove_file(&filler).unwrap();
    scene.delivered();
    let account = scene.end();
    assert_eq!((account.quarantined, account.pending), (0, 0));
}

/// An OTLP receiver that is away until it is told otherwise, and the texts that it took since.
fn away_at_first() -> (Receiver, Arc<AtomicBool>, Arc<Mutex<BTreeSet<String>>>) {
    let (is_up, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
    let (up, texts) = (Arc::clone(&is_up), Arc::clone(&taken));
    let receiver = Receiver::start(move |request| {
        if !up.load(Ordering::SeqCst) {
            return Reply::status(503);
        }
        let scopes = request.logs().resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
        let bodies = scopes.flat_map(|scope| scope.log_records).filter_map(|record| record.body?.value);
        texts.lock().unwrap().extend(bodies.filter_map(|body| match body {
            Value::StringValue(text) if text.starts_with("record ") => Some(text),
            _ => None,
        }));
        Reply::taken()
    });
    (receiver, is_up, taken)
}

#[test]
fn all_exporters_are_down_and_each_goes_on_by_itself_once_it_is_up() {
    let mut cluster = Cluster::start(Durability::Full);
    let database = migrated(&cluster);
    let (receiver, is_up, taken) = away_at_first();
    let endpoint = Endpoint {
        url: format!("{}/v1/logs", receiver.base).parse().unwrap(),
        headers: vec![],
        timeout: Duration::from_secs(1),
        compression: Compression::Gzip,
        certificate: None,
        identity: None,
    };
    let otlp = OtlpConfig { logs: Some(endpoint), traces: None, batch_max: 512, linger: Duration::ZERO };
    let mut scene = Scene::with(&database, &database.url(), |config| config.otlp = Some(otlp));
    cluster.stop(Stop::Immediate);
    scene.send(2_000);
    scene.retrying();
    until("the receiver to be missed, too", || scene.facts_of(OTLP_SLOT).retries > 0);
    assert_eq!((scene.facts().delivered, scene.facts_of(OTLP_SLOT).delivered), (0, 0));

    // One is up: it has everything, and the other still nothing.
    is_up.store(true, Ordering::SeqCst);
    scene.send(500);
    until("the receiver to have all", || taken.lock().unwrap().len() == 2_500);
    assert!(scene.facts().delivered == 0 && !matches!(scene.facts().state, State::Blocked { .. }));

    // The other way round, and all of it in the end.
    is_up.store(false, Ordering::SeqCst);
    cluster.resume();
    scene.send(500);
    until("the database to have all", || scene.facts().delivered >= 3_000);
    is_up.store(true, Ordering::SeqCst);
    scene.delivered();
    assert_eq!(taken.lock().unwrap().len(), 3_000);
    let account = scene.end();
    assert_eq!((account.quarantined, account.pending), (0, 0));
}

/// A file system of 48 MiB that the server owns a folder of.
struct Small(PathBuf);

impl Small {
    fn mount(cluster: &Cluster) -> Option<Small> {
        let path = std::env::temp_dir().join(format!("dogwatch-small-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let mount =
            |path: &Path| Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(path).output();
        let mounted = mount(&path).is_ok_and(|said| said.status.success());
        let (true, Some((uid, gid))) = (mounted, cluster.user()) else {
            let line = "delivery: a full disk is not shown: no small file system can be mounted here\n";
            let _ = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
            return None;
        };
        let space = path.join("space");
        std::fs::create_dir(&space).unwrap();
        std::os::unix::fs::chown(&space, Some(uid), Some(gid)).unwrap();
        Some(Small(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
        let _ = std::fs::remove_dir(&self.0);
    }
}
