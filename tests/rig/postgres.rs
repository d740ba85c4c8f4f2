//! A private Postgres for tests: a real server from this machine's programs, in a folder, on a
//! port and with roles of its own.
//!
//! [`Cluster::shared`] is started once a process; each test makes itself a [`Database`] in it. A
//! test that stops, cuts or fills its server starts a cluster for itself. A server ends with the
//! process that started it, however that ends: a shell holds the read end of a pipe, stops the
//! server when the pipe closes, and removes the folder. The server refuses to run as root, so that
//! it then runs as `postgres` or `nobody`. Statements go through psql: a client that nobody here
//! wrote, usable inside and outside of async code.
//!
//! Without the programs a test fails and says what to install. One file for the tests beside the
//! code, the tests of the whole and the benches, which include it by its path.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The role that owns the cluster. `postgres` is left free: on Supabase it is no superuser.
pub(crate) const ADMIN: &str = "dw_admin";
/// The password of every role that the rig makes; no output of ours may ever show it.
pub(crate) const PASSWORD: &str = "marked-secret-of-the-rig";
/// Looks for a server that starts or stops, before it is given up: a minute and a half.
const LOOKS: u32 = 1_800;
const LOOK: Duration = Duration::from_millis(50);
/// Connections of one server.
const CONNECTIONS_MAX: u32 = 120;

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing: most tests do not look.
    Relaxed,
    /// The disk.
    Full,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Connections are ended, and a checkpoint is written.
    Fast,
    /// At once, as if the power had failed.
    Immediate,
}

/// One server.
pub(crate) struct Cluster {
    folder: PathBuf,
    port: u16,
    durability: Durability,
    user: Option<(u32, u32)>,
    running: Option<Running>,
    databases: AtomicU32,
}

struct Running {
    shell: Child,
    /// Closed, the server stops; one line first says how.
    control: ChildStdin,
}

/// One database in a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) name: String,
    port: u16,
}

impl Cluster {
    /// The cluster of all tests of this process that do it no harm.
    pub(crate) fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Cluster::start(Durability::Relaxed))
    }

    /// A cluster of one's own below the folder for temporary files.
    pub(crate) fn start(durability: Durability) -> Cluster {
        Cluster::start_in(&std::env::temp_dir(), durability)
    }

    /// The same below `place`, such as a small file system.
    pub(crate) fn start_in(place: &Path, durability: Durability) -> Cluster {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dogwatch-pg-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = place.join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let user = unprivileged(&folder);
        fs::write(folder.join("password"), PASSWORD).unwrap();
        if let Some((uid, gid)) = user {
            for path in [folder.clone(), folder.join("password")] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let mut cluster =
            Cluster { folder, port: free_port(), durability, user, running: None, databases: AtomicU32::new(0) };
        cluster.init();
        cluster.resume();
        cluster
    }

    /// A fresh, empty database.
    pub(crate) fn database(&self) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.admin().run(&format!("create database {name}"));
        Database { name, port: self.port }
    }

    /// The database that is always there.
    pub(crate) fn admin(&self) -> Database {
        Database { name: "postgres".to_owned(), port: self.port }
    }

    /// Whom the server runs as: user and group; None: whom the test runs as.
    pub(crate) fn user(&self) -> Option<(u32, u32)> {
        self.user
    }

    /// Where the server listens, on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Stops the server; what is on disk stays.
    pub(crate) fn stop(&mut self, how: Stop) {
        let Some(mut running) = self.running.take() else { return };
        let word: &[u8] = if how == Stop::Fast { b"INT\n" } else { b"QUIT\n" };
        let _ = std::io::Write::write_all(&mut running.control, word);
        drop(running.control);
        running.shell.wait().unwrap();
    }

    /// Starts the server again, on the same port.
    pub(crate) fn resume(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let mut command = self.command("sh");
        command.args(["-c", KEEPER, "keeper"]).arg(&self.folder).arg(program("postgres"));
        command.arg("-D").arg(self.folder.join("data"));
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut shell = command.spawn().unwrap();
        let control = shell.stdin.take().unwrap();
        self.running = Some(Running { shell, control });
        for _ in 0..LOOKS {
            if self.admin().try_ask("select 1").is_ok() {
                return;
            }
            let shell = &mut self.running.as_mut().unwrap().shell;
            assert!(shell.try_wait().unwrap().is_none(), "postgres has ended: {}", self.log());
            pause();
        }
        panic!("postgres does not answer: {}", self.log());
    }

    /// From its next start on the server takes TLS, with this certificate and key, and over the
    /// network nothing else.
    pub(crate) fn enable_tls(&self, (certificate, key): &(PathBuf, PathBuf)) {
        let data = self.folder.join("data");
        for (from, name) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = data.join(name);
            fs::copy(from, &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = self.user {
                std::os::unix::fs::chown(&to, Some(uid), Some(gid)).unwrap();
            }
        }
        let settings = data.join("postgresql.conf");
        fs::write(&settings, fs::read_to_string(&settings).unwrap() + "ssl = on\n").unwrap();
        fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    }

    /// Runs a statement: the plans of it and of all that it calls, as they were carried out.
    pub(crate) fn plans(&self, database: &Database, sql: &str) -> String {
        let session = database.ask(&format!(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on; \
             set auto_explain.log_analyze = on; select pg_backend_pid(); {sql}"
        ));
        let session = format!("[{}]", session.lines().next().unwrap_or_default());
        let mut plans = String::new();
        let mut is_ours = false;
        for line in self.log().lines() {
            if !line.starts_with('\t') {
                is_ours = line.contains(&session);
            }
            if is_ours {
                plans.push_str(line);
                plans.push('\n');
            }
        }
        assert!(plans.contains("Query Text"), "no plan of {session}: {plans}");
        plans
    }

    /// What the server wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn init(&self) {
        let mut command = self.command(program("initdb"));
        command.args(["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]);
        command.args(["-U", ADMIN]).arg("--pwfile").arg(self.folder.join("password"));
        let said = command.arg("-D").arg(self.folder.join("data")).output().unwrap();
        assert!(said.status.success(), "initdb: {}", String::from_utf8_lossy(&said.stderr));
        let relaxed = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n";
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nmax_connections = {}\n\
             shared_buffers = 64MB\nmax_wal_size = 2GB\nlog_min_messages = warning\n{}",
            self.port,
            CONNECTIONS_MAX,
            if self.durability == Durability::Relaxed { relaxed } else { "" },
        );
        let path = self.folder.join("data/postgresql.conf");
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str(&settings);
        fs::write(path, text).unwrap();
    }

    /// A program as the cluster's user.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env_remove("PGOPTIONS").env_remove("PGSERVICE");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// Runs the server ($2 ...) and ends it when standard input closes, as a line there says. Where no
/// line came the process is gone, and so is the folder ($1).
const KEEPER: &str = r#"folder=$1; shift; "$@" </dev/null & server=$!
read -r how; kill -"${how:-QUIT}" "$server" 2>/dev/null; wait "$server"
[ -n "$how" ] || rm -rf "$folder""#;

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Database {
    /// Another database of the same server.
    pub(crate) fn named(&self, name: &str) -> Database {
        Database { name: name.to_owned(), port: self.port }
    }

    /// Its URL for the owner of the cluster.
    pub(crate) fn url(&self) -> String {
        self.url_of(ADMIN)
    }

    /// Its URL for a role of the rig.
    pub(crate) fn url_of(&self, role: &str) -> String {
        self.url_at(role, self.port)
    }

    /// Its URL for a role, through another port: a proxy's.
    pub(crate) fn url_at(&self, role: &str, port: u16) -> String {
        format!("postgres://{role}:{PASSWORD}@127.0.0.1:{port}/{}", self.name)
    }

    /// Runs statements that must succeed.
    pub(crate) fn run(&self, sql: &str) {
        self.ask(sql);
    }

    /// What statements print: a line a row, columns with `|` between.
    pub(crate) fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, or what psql said.
    pub(crate) fn try_ask(&self, sql: &str) -> Result<String, String> {
        self.try_ask_as(ADMIN, sql)
    }

    /// The same as another role.
    pub(crate) fn try_ask_as(&self, role: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new(program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        command.env("PGPASSWORD", PASSWORD).env("PGCONNECT_TIMEOUT", "5").env_remove("PGOPTIONS");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", role, "-d", &self.name]);
        let said = command.stdin(Stdio::null()).output().unwrap();
        if said.status.success() {
            return Ok(String::from_utf8_lossy(&said.stdout).trim_end().to_owned());
        }
        Err(String::from_utf8_lossy(&said.stderr).into_owned())
    }

    /// How many rows `from` (a table, with or without a condition) has.
    pub(crate) fn count(&self, from: &str) -> u64 {
        self.ask(&format!("select count(*) from {from}")).parse().unwrap()
    }

    /// The roles of a Supabase project, where the cluster does not have them yet: `postgres` owns
    /// the database and is no superuser.
    pub(crate) fn make_supabase_roles(&self) {
        let login = format!("login password '{PASSWORD}'");
        let roles = [
            ("anon", "nologin noinherit".to_owned()),
            ("authenticated", "nologin noinherit".to_owned()),
            ("service_role", "nologin noinherit bypassrls".to_owned()),
            ("authenticator", format!("{login} noinherit")),
            ("postgres", format!("{login} createdb createrole")),
        ];
        let mut sql = String::from("select pg_advisory_lock(1);");
        for (role, options) in roles {
            sql.push_str(&format!(
                "do $$ begin if not exists (select from pg_roles where rolname = '{role}') \
                 then create role {role} {options}; end if; end $$;"
            ));
        }
        sql.push_str("grant anon, authenticated, service_role to authenticator, postgres;");
        // Roles belong to the whole cluster, and the lock to a database: always the same one.
        self.named("postgres").run(&sql);
        self.run(&format!(
            "alter database {} owner to postgres; alter schema public owner to postgres; \
             grant usage on schema public to anon, authenticated, service_role;",
            self.name
        ));
    }

    /// The history of migrations that a Supabase project keeps, empty.
    pub(crate) fn make_supabase_history(&self) {
        self.run(
            "create schema supabase_migrations;
             create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text);
             grant all on schema supabase_migrations to postgres;
             grant all on all tables in schema supabase_migrations to postgres",
        );
    }
}

/// A program of Postgres: the newest of `/usr/lib/postgresql/*/bin`, or one on the PATH.
pub(crate) fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(name))))
        .filter(|(_, path)| path.exists())
        .collect();
    found.sort();
    let path = found.pop().map_or_else(|| PathBuf::from(name), |(_, path)| path);
    let missing = "install PostgreSQL (Debian: postgresql; scripts/test.sh does it)";
    let said = Command::new(&path).arg("--version").output();
    assert!(said.is_ok(), "{name} is not on this machine: {missing}");
    path
}

/// Whom the server runs as where we are root.
fn unprivileged(own: &Path) -> Option<(u32, u32)> {
    if fs::metadata(own).unwrap().uid() != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let mut fields = accounts.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}

/// A port that nobody listens on, below those that the kernel gives away by itself: it must be free
/// again when a server is started for the second time.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = std::process::id().wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from(step % 12_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if is_so() {
            return;
        }
        pause();
    }
    panic!("waited in vain for {what}");
}

fn pause() {
    let _ = crossbeam_channel::after(LOOK).recv();
}
