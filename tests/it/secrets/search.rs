//! The search: everything that processes of a rig have written.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use sqlx::Connection as _;

use crate::flows::rig::Rig;

/// What every planted secret holds.
pub(super) const MARK: &str = "marked-secret";

/// Fails where anything that was written, or an argument of a process, holds a secret.
pub(crate) fn search(rig: &Rig) {
    arguments(rig);
    let found = in_folder(&rig.path("."));
    assert!(found.is_empty(), "secrets were written:\n{}", found.join("\n"));
}

/// Fails where an argument of a process of the rig holds a secret.
pub(super) fn arguments(rig: &Rig) {
    for (pid, words) in rig.processes() {
        assert!(!words.contains(MARK), "process {pid:?}: {words}");
    }
}

/// Where the mark is found: files, as they are and with their compressed parts unpacked.
fn in_folder(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(in_folder(&path));
            continue;
        }
        // A lock or a socket may be gone or no file.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        found.extend(in_bytes(&bytes).map(|around| format!("{}: {around}", path.display())));
        if path.file_name().is_some_and(|name| name == "fleet.db") {
            for (number, body) in snapshots(&path).iter().enumerate() {
                found.extend(in_bytes(body).map(|around| format!("snapshot {number}: {around}")));
            }
        }
    }
    found
}

/// The mark and what is around it.
fn in_bytes(bytes: &[u8]) -> Option<String> {
    let at = bytes.windows(MARK.len()).position(|part| part == MARK.as_bytes())?;
    let around = &bytes[at.saturating_sub(80)..(at + 60).min(bytes.len())];
    Some(String::from_utf8_lossy(around).replace(char::is_control, " "))
}

/// The decision snapshots of a fleet, unpacked.
fn snapshots(path: &Path) -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bodies: Vec<Vec<u8>> = runtime.block_on(async {
        let options =
            sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10));
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let bodies = sqlx::query_scalar("select body from snapshots").fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        bodies
    });
    bodies.iter().map(|body| zstd::stream::decode_all(body.as_slice()).unwrap()).collect()
}

/// A page that wants a bearer, head and body.
pub(super) fn page(port: u16, path: &str, token: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n");
    write!(stream, "{head}connection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_planted_secret_is_found_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("spool")).unwrap();
    std::fs::write(folder.path().join("spool/segment.dws"), b"\x00\xffkey=marked-secret\n").unwrap();
    std::fs::write(folder.path().join("clean"), b"marked, not secret").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(folder.path().join("fleet.db"))
            .create_if_missing(true);
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("create table snapshots (body blob)").execute(&mut connection).await.unwrap();
        let packed = zstd::stream::encode_all(&b"{\"token\": \"marked-secret\"}"[..], 3).unwrap();
        sqlx::query("insert into snapshots values ($1)").bind(packed).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
    let found = in_folder(folder.path());
    let has = |place: &str| found.iter().any(|one| one.contains(place));
    assert!(has("segment.dws") && has("snapshot 0") && !has("clean"), "{found:?}");
}
