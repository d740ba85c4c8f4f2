//! Behind a real pooler in transaction mode, where no two statements need meet the same session; and
//! the pooler itself, for whoever needs one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use dogwatch::store::postgres::PostgresStore;
use dogwatch::store::sqlite::TimeSource;
use dogwatch::store::{LogQuery, Store as _};
use dogwatch::telemetry::exporter::postgres::Address;

use super::copy::{count_ways, ways};
use super::scene::{Scene, migrated};
use crate::postgres_rig::{ADMIN, Cluster, Durability, PASSWORD, until};

/// A running pgbouncer.
pub(crate) struct Pooler {
    child: Child,
    folder: PathBuf,
    pub(crate) port: u16,
}

/// For how long a client has a session of the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// For a transaction; all clients share one.
    Transaction,
    /// For as long as it stays; each has its own.
    Session,
}

impl Pooler {
    /// None: the program is not on this machine.
    pub(crate) fn start(cluster: &Cluster, mode: Mode) -> Option<Pooler> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let program = ["/usr/sbin/pgbouncer", "pgbouncer"]
            .into_iter()
            .find(|name| Command::new(name).arg("--version").output().is_ok_and(|said| said.status.success()))?;
        let name = format!("dogwatch-pooler-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        let (mode, sessions) = if mode == Mode::Transaction { ("transaction", 1) } else { ("session", 40) };
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (config, users) = (folder.join("config"), folder.join("users"));
        fs::write(&users, format!("\"{ADMIN}\" \"{PASSWORD}\"\n")).unwrap();
        fs::write(
            &config,
            format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {mode}\n\
                 default_pool_size = {sessions}\nlogfile = {}\n",
                cluster.port(),
                users.display(),
                folder.join("log").display()
            ),
        )
        .unwrap();
        let mut command = Command::new(program);
        own(&mut command, cluster, &[&folder, &config, &users]);
        let child = command.arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pooler = Pooler { child, folder, port };
        until("the pooler", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(pooler)
    }
}

/// It refuses to run as root, as the server does.
fn own(command: &mut Command, cluster: &Cluster, paths: &[&Path]) {
    use std::os::unix::process::CommandExt as _;
    if let Some((uid, gid)) = cluster.user() {
        command.uid(uid).gid(gid);
        for path in paths {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn writers_and_readers_share_one_connection_of_a_pooler() {
    let cluster = Cluster::start(Durability::Relaxed);
    let Some(pooler) = Pooler::start(&cluster, Mode::Transaction) else {
        println!("delivery: a pooler in transaction mode is not shown: pgbouncer is not on this machine");
        return;
    };
    let database = migrated(&cluster);
    let url = database.url_at(ADMIN, pooler.port);
    count_ways(&database);
    let mut scene = Scene::at(&database, &url);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store =
        runtime.block_on(async { PostgresStore::new(&Address::parse(&url).unwrap(), TimeSource::Database) });
    for _ in 0..20 {
        scene.send(200);
        let query = LogQuery { grep: Some("record 1".into()), limit: 50, ..LogQuery::default() };
        let rows = runtime.block_on(async {
            let (rows, newest) = tokio::join!(store.logs(&query), store.newest_rows());
            newest.unwrap();
            rows.unwrap()
        });
        assert!(rows.iter().all(|row| row.message.starts_with("record 1")), "another's answer: {rows:?}");
    }
    scene.delivered();
    let (copies, inserts) = ways(&database);
    assert!(copies > 0 && inserts > 0, "{copies} by COPY, {inserts} by INSERT");
    assert_eq!((scene.facts().retries, scene.end().pending), (0, 0));
}
