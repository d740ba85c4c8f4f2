//! A recorder with a database exporter, what was sent through it, and the account at the end.

use std::path::Path;
use std::time::Duration;

use dogwatch::clock::{self, Time};
use dogwatch::telemetry::exporter::postgres::Address;
use dogwatch::telemetry::exporter::postgres::schema::{self, Mode};
use dogwatch::telemetry::record::{Level, Source};
use dogwatch::telemetry::shipper::{Facts, State};
use dogwatch::telemetry::spool::disk::RealDisk;
use dogwatch::telemetry::spool::verify;
use dogwatch::telemetry::{Config, DATABASE_SLOT, Destination, Guard, NewRecord, SourceNo};
use serde_json::json;
use tempfile::TempDir;

use crate::postgres_rig::{Cluster, Database, PASSWORD, until};

/// Sources that speak.
pub(super) const SOURCES: u64 = 20;

/// A running recorder and what it was given.
pub(super) struct Scene {
    folder: TempDir,
    guard: Option<Guard>,
    database: Database,
    sources: Vec<SourceNo>,
    /// Records sent, spread evenly over the sources.
    sent: u64,
}

/// What the law says of the database exporter at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) delivered: u64,
    pub(super) quarantined: u64,
    pub(super) pending: u64,
}

/// A database with the table in it.
pub(super) fn migrated(cluster: &Cluster) -> Database {
    let database = cluster.database();
    migrate(&database);
    database
}

pub(super) fn migrate(database: &Database) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = Address::parse(&database.url()).unwrap();
    runtime.block_on(schema::migrate(&address, Mode::Apply, None, clock::now())).unwrap();
}

impl Scene {
    /// A recorder that delivers to `database`.
    pub(super) fn new(database: &Database) -> Scene {
        Scene::at(database, &database.url())
    }

    /// The same, by another way.
    pub(super) fn at(database: &Database, url: &str) -> Scene {
        Scene::with(database, url, |_| {})
    }

    /// The same, with other settings.
    pub(super) fn with(database: &Database, url: &str, change: impl FnOnce(&mut Config)) -> Scene {
        let folder = tempfile::Builder::new().prefix("dogwatch-delivery-").tempdir().unwrap();
        let own = Source { source_type: "external".into(), source_id: "recorder".into(), resource: vec![] };
        let mut config = Config::new(folder.path().join("spool"), own);
        config.ring_bytes = 4 << 20;
        config.database = Some(Destination::Postgres(Address::parse(url).unwrap()));
        change(&mut config);
        let (_, guard) = dogwatch::telemetry::start::<tracing_subscriber::Registry>(config).unwrap();
        let source = |n| Source { source_type: "worker".into(), source_id: format!("gpu-{n}"), resource: vec![] };
        let sources = (0..SOURCES).map(|n| guard.recorder().intern(&source(n)).unwrap()).collect();
        Scene { folder, guard: Some(guard), database: database.clone(), sources, sent: 0 }
    }

    fn guard(&self) -> &Guard {
        self.guard.as_ref().unwrap()
    }

    /// Sends so many records of this moment.
    pub(super) fn send(&mut self, records: u64) {
        self.send_at(records, clock::now());
    }

    /// The same, made at `time` and the microseconds after it.
    pub(super) fn send_at(&mut self, records: u64, time: Time) {
        for n in 0..records {
            let (number, time) = (self.sent, clock::plus(time, Duration::from_micros(n)));
            let source = self.sources[usize::try_from(number % SOURCES).unwrap()];
            let (body, value) = (format!("record {number}"), json!(number));
            let record =
                NewRecord { time, level: Level::Info, body: &body, attributes: &[("n", &value)], event_name: None };
            // A burst may be faster than the disk: the ring says so, and nothing is lost.
            until("room in the ring", || self.guard().recorder().emit(source, &record).is_ok());
            self.sent += 1;
        }
    }

    /// Sends at this rate for so long.
    pub(super) fn stream(&mut self, records_a_second: u64, time: Duration) {
        let (begin, total) = (clock::monotonic(), records_a_second * time.as_secs());
        for n in 1..=total {
            self.send(1);
            let due = begin + Duration::from_micros(n * 1_000_000 / records_a_second);
            if n % 20 == 0 {
                let left = due.saturating_sub(clock::monotonic());
                let _ = crossbeam_channel::after(left).recv();
            }
        }
    }

    /// Where the database exporter stands.
    pub(super) fn facts(&self) -> Facts {
        self.facts_of(DATABASE_SLOT)
    }

    /// Where another one stands.
    pub(super) fn facts_of(&self, slot: &str) -> Facts {
        let exporters = self.guard().exporters();
        exporters.into_iter().find(|exporter| exporter.slot == slot).unwrap().facts
    }

    /// Waits until it holds, and gives the remedy and the last error.
    pub(super) fn blocked(&self) -> (String, String) {
        until("the exporter to hold", || matches!(self.facts().state, State::Blocked { .. }));
        let facts = self.facts();
        let State::Blocked { remedy, .. } = facts.state else { panic!("it went on: {facts:?}") };
        (remedy, facts.last_error.unwrap().1)
    }

    /// Waits until it has failed and tries again, and gives the last error.
    pub(super) fn retrying(&self) -> String {
        until("the exporter to fail", || self.facts().retries > 0);
        self.facts().last_error.unwrap().1
    }

    /// Waits until everything is delivered.
    pub(super) fn delivered(&self) {
        until("everything to be delivered", || self.guard().deliver(Duration::from_millis(500)));
    }

    /// Ends the recorder, and shows the law, each row once and in order, and no secret.
    pub(super) fn end(mut self) -> Account {
        let status = serde_json::to_string(&self.guard().status()).unwrap();
        assert!(!status.contains(PASSWORD), "{status}");
        let _ = self.guard.take().unwrap().shutdown(Duration::from_secs(10));
        let lines = verify(&RealDisk, &self.folder.path().join("spool")).unwrap();
        let mut account = Account::default();
        for line in &lines {
            assert!(line.ok, "{line:?}");
            if line.exporter == DATABASE_SLOT {
                assert!(line.dropped.is_empty() && line.refused.is_empty(), "{line:?}");
                account.delivered += line.delivered;
                account.quarantined += line.quarantined;
                account.pending += line.pending;
            }
        }
        assert_eq!(self.database.count("system_logs"), account.delivered, "rows");
        let sent = "system_logs where source_id like 'gpu-%'";
        let different = self.database.ask(&format!("select count(distinct metadata->>'n') from {sent}"));
        let expected = self.sent - account.quarantined - account.pending;
        assert_eq!((self.database.count(sent), different), (expected, expected.to_string()));
        let backwards = self.database.count(
            "(select (metadata->>'n')::int < lag((metadata->>'n')::int) over (partition by source_id order by arrival)
                as is_back from system_logs where source_id like 'gpu-%') as found where is_back",
        );
        assert_eq!(backwards, 0, "rows out of order");
        has_no_secret(self.folder.path());
        account
    }
}

/// Nothing that was written holds the password.
fn has_no_secret(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            has_no_secret(&path);
        } else {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
            assert!(!text.contains(PASSWORD), "{} shows the password", path.display());
        }
    }
}
