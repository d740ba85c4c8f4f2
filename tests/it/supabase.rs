//! Rows into Supabase and back, through a stand-in for its gateway and PostgREST that runs the real SQL
//! functions in a real Postgres: exactly once, whatever the way does.
//!
//! Each test has a project and a database of its own. Every scene ends with the conservation law,
//! from disk alone, and with each accepted record as exactly one row or set aside and counted.

mod delivery;
mod faults;
mod function;
mod reading;

use std::time::Duration;

use dogwatch::clock;
use dogwatch::telemetry::exporter::postgres::Address;
use dogwatch::telemetry::exporter::postgres::schema::{self, Mode};
use dogwatch::telemetry::exporter::supabase::SupabaseConfig;
use dogwatch::telemetry::record::{Level, Source};
use dogwatch::telemetry::shipper::{Facts, State};
use dogwatch::telemetry::spool::disk::RealDisk;
use dogwatch::telemetry::spool::{quarantine, verify};
use dogwatch::telemetry::{self, Adopt, Config, Destination, Guard, NewRecord};
use tempfile::TempDir;
use tracing_subscriber::Registry;

use crate::postgres_rig::{Cluster, Database, until};
use crate::postgrest_rig::{Project, SECRET_KEY};

const APP: &str = "app";

/// A database with our migrations, made by the owner of a project.
pub(crate) fn migrated(database: Database) -> Database {
    database.make_supabase_roles();
    migrate(&database);
    database
}

fn migrate(database: &Database) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = Address::parse(&database.url_of("postgres")).unwrap();
    runtime.block_on(schema::migrate(&address, Mode::Apply, None, clock::now())).unwrap();
}

/// A recorder whose database exporter is `supabase`, and the project behind it.
struct Scene {
    project: Project,
    database: Database,
    folder: TempDir,
    guard: Guard,
    accepted: Vec<String>,
}

impl Scene {
    fn new() -> Scene {
        Scene::on(Cluster::shared().database())
    }

    fn on(database: Database) -> Scene {
        Scene::with_key(database, SECRET_KEY)
    }

    fn with_key(database: Database, key: &str) -> Scene {
        let database = migrated(database);
        let project = Project::start(&database);
        let folder = tempfile::tempdir().unwrap();
        let config = SupabaseConfig::new(&project.url, "SUPABASE_SECRET_KEY", key).unwrap();
        let guard = recorder(&folder, config);
        Scene { project, database, folder, guard, accepted: Vec::new() }
    }

    /// The program says so many numbered records.
    fn talk(&mut self, count: usize) {
        let source = Source { source_type: "external".into(), source_id: APP.into(), resource: Vec::new() };
        let source = self.guard.recorder().intern(&source).unwrap();
        for _ in 0..count {
            let text = format!("record {}", self.accepted.len());
            let record = NewRecord {
                time: clock::now(),
                level: Level::Info,
                body: &text,
                attributes: &[],
                event_name: None,
            };
            self.guard.recorder().emit(source, &record).unwrap();
            self.accepted.push(text);
        }
        assert!(self.guard.flush(Duration::from_secs(30)), "it is on disk");
    }

    fn facts(&self) -> Facts {
        self.guard.exporters().remove(0).facts
    }

    /// Waits until it stands as `is_so` says.
    fn stands(&self, what: &str, is_so: impl Fn(&Facts) -> bool) -> Facts {
        until(what, || is_so(&self.facts()));
        self.facts()
    }

    /// Waits until somebody must act, and gives what is said about it.
    fn blocks(&self) -> String {
        let facts = self.stands("blocked", |facts| matches!(facts.state, State::Blocked { .. }));
        let text = format!("{facts:?}");
        assert!(!text.contains("marked-secret"), "{text}");
        facts.last_error.unwrap().1
    }

    /// Waits until it is being tried again, and gives why.
    fn retries(&self) -> String {
        let facts = self.stands("retries", |facts| facts.retries > 0);
        assert!(!format!("{facts:?}").contains("marked-secret"), "{facts:?}");
        facts.last_error.unwrap().1
    }

    /// Everything works again: what is pending is delivered, each record is one row, and the law
    /// holds. How many records were set aside.
    fn end(self) -> u64 {
        self.project.heal();
        until("all is delivered", || self.guard.wait_delivered(|_| ()));
        let Scene { project: _project, database, folder, guard, accepted } = self;
        let ended = guard.shutdown(Duration::from_secs(20));
        assert_eq!((ended.pending, ended.lost), (0, 0));
        let rows = rows(&database);
        let (mut delivered, mut offered, mut set_aside) = (0, 0, 0);
        for line in verify(&RealDisk, folder.path()).unwrap() {
            assert!(line.ok && line.pending == 0 && line.dropped.is_empty() && line.refused.is_empty(), "{line:?}");
            (delivered, offered) = (delivered + line.delivered, offered + line.offered);
            set_aside += line.quarantined;
        }
        assert_eq!(delivered + set_aside, offered);
        assert_eq!(quarantine::list(&RealDisk, folder.path()).unwrap().len() as u64, set_aside);
        assert_eq!(rows.len() as u64 + set_aside, accepted.len() as u64, "exactly once");
        let mut left = accepted.iter();
        assert!(rows.iter().all(|row| left.any(|text| text == row)), "in order, and nothing else: {rows:?}");
        set_aside
    }
}

/// Texts of the program's rows, by their time.
fn rows(database: &Database) -> Vec<String> {
    let order = "select message from system_logs where source_id = 'app' order by timestamp, arrival";
    database.ask(order).lines().map(str::to_owned).collect()
}

fn recorder(folder: &TempDir, config: SupabaseConfig) -> Guard {
    let source = Source { source_type: "external".into(), source_id: "recorder".into(), resource: Vec::new() };
    let config = Config {
        database: Some(Destination::Supabase(config)),
        adopt: Adopt::All,
        ring_bytes: 1 << 20,
        heartbeat_every: Duration::from_secs(3_600),
        ..Config::new(folder.path(), source)
    };
    let (_, guard) = telemetry::start::<Registry>(config).unwrap();
    guard
}
