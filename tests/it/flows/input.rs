//! Bad input: exit 2, an error that names the thing and the remedy, and nothing damaged.

use super::rig::{Rig, Said};

/// The words must be refused with a text that has all of `parts`.
pub(super) fn check(rig: &Rig, words: &[&str], settings: &[(&str, &str)], parts: &[&str]) {
    let mut command = rig.command(words);
    command.envs(settings.iter().copied());
    let Said { code, out, err } = rig.start(command).wait();
    assert_eq!((code, out.as_str()), (Some(2), ""), "{words:?} {settings:?}: {err}");
    for part in parts {
        assert!(err.contains(part), "{words:?} {settings:?}: no {part:?} in {err:?}");
    }
    let lines = err.lines().count();
    assert!(lines <= 1 || err.contains("--help"), "{words:?}: one error, said once: {err}");
}

#[test]
fn words_and_settings_that_make_no_sense() {
    let rig = Rig::new();
    check(&rig, &["up", "--nope"], &[], &["--nope", "--help"]);
    check(&rig, &["fly"], &[], &["fly", "--help"]);
    check(
        &rig,
        &["up"],
        &[("MAX_ACTIVE_GPUS", "ten")],
        &["MAX_ACTIVE_GPUS", "\"ten\"", "set it to a whole number"],
    );
    check(&rig, &["up", "--max-workers", "100000"], &[], &["--max-workers", "100000", "from 0 to 10000"]);
    check(&rig, &["status"], &[("ORCHESTRATOR_POLL_SEC", "0")], &["ORCHESTRATOR_POLL_SEC", "seconds from"]);
    check(
        &rig,
        &["up"],
        &[("MIN_ACTIVE_GPUS", "5"), ("MAX_ACTIVE_GPUS", "2")],
        &["MIN_ACTIVE_GPUS 5", "MAX_ACTIVE_GPUS 2", "lower the one or raise the other"],
    );
    let gone = rig.path("gone.toml").display().to_string();
    check(&rig, &["up"], &[("DOGWATCH_CONFIG", &gone)], &[&gone, "DOGWATCH_CONFIG", "correct the path"]);
    for (text, part) in [
        ("max_active_gpus = \"ten\"", "a whole number"),
        ("max_gpus = 3", "`max_gpus` is not a setting"),
        ("max_active_gpus = = 3", "is not TOML (line 1: "),
        ("beat_seconds = \"soon\"", "seconds from 0.1 to 600"),
    ] {
        let file = rig.file("dogwatch.toml", text);
        check(&rig, &["up"], &[("DOGWATCH_CONFIG", &file)], &[&file, part]);
    }
    check(&rig, &["up", "--listen", "0.0.0.0:17999"], &[], &["0.0.0.0:17999", "set DOGWATCH_TOKEN"]);
    check(&rig, &["agent"], &[], &["DOGWATCH_", "is not set", "DOGWATCH_BASE_URL"]);
    assert!(!rig.data().exists(), "what was refused has made nothing");
}

#[test]
fn words_of_the_read_commands_that_make_no_sense() {
    let rig = Rig::new();
    check(&rig, &["logs", "--since", "yesterday"], &[], &["--since \"yesterday\"", "write 90s"]);
    check(&rig, &["logs", "--level", "loud"], &[], &["--level \"loud\"", "write debug"]);
    check(&rig, &["logs", "--trace", "12"], &[], &["--trace \"12\"", "32 hex digits"]);
    check(&rig, &["tasks", "--since", "1h", "--until", "2h"], &[], &["is after --until", "exchange them"]);
    check(&rig, &["tasks", "--status", "lost"], &[], &["--status \"lost\"", "write queued"]);
    check(&rig, &["submit", "--each", "a", "--", "wc"], &[], &["--each", "put {} where"]);
    check(&rig, &["ship", "--source", ""], &[], &["--source", "1 to 200"]);
    for (text, part) in [("{", "$"), ("{\"schema_version\": 1}", "$"), ("", "$")] {
        let file = rig.file("broken.json", text);
        check(&rig, &["replay", &file], &[], &[&file, part, "give a file in the format of incident files"]);
    }
    check(&rig, &["replay", "gone.json"], &[], &["gone.json", "give a file"]);
    check(&rig, &["workers", "--since=-5m"], &[], &["--since", "write 90s"]);
    check(&rig, &["demo", "--data-dir", "x"], &[], &["--data-dir", "throwaway folder"]);
    assert!(!rig.data().exists(), "what was refused has made nothing");
}

#[test]
fn folders_and_ports_that_cannot_be_used() {
    let rig = Rig::new();
    let file = rig.file("a-file", "mine");
    check(&rig, &["up"], &[("DOGWATCH_DATA_DIR", &file)], &[&file, "DOGWATCH_DATA_DIR"]);
    check(&rig, &["status", "--data-dir", &file], &[], &[&file, "--data-dir"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    check(&rig, &["up", "--data-dir", "/proc/none"], &[], &["/proc/none", "make it writable"]);
    let taken = std::net::TcpListener::bind(("127.0.0.1", rig.gateway)).unwrap();
    check(&rig, &["up"], &[], &[&format!("127.0.0.1:{}", rig.gateway), "in use", "--listen"]);
    drop(taken);
    let up = rig.up(&[]);
    check(&rig, &["up", "--listen", "127.0.0.1:0"], &[], &["another dogwatch up", "--data-dir"]);
    assert_eq!(rig.ok(&["submit", "--wait", "--", "echo", "still here"]), "still here\n");
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.wait().code, Some(0));
    // A database that is none is said, and left as it is.
    let broken = rig.data().join("fleet.db");
    for name in ["fleet.db-wal", "fleet.db-shm"] {
        let _ = std::fs::remove_file(rig.data().join(name));
    }
    std::fs::write(&broken, [7; 8_192]).unwrap();
    let data = rig.data().display().to_string();
    check(&rig, &["status"], &[], &[&data, "--data-dir", "repair"]);
    check(&rig, &["up"], &[], &[&data, "--data-dir", "repair"]);
    assert_eq!(std::fs::read(&broken).unwrap(), [7; 8_192]);
    rig.is_left_alone();
}
