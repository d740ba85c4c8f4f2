//! `dogwatch ship`: every line is one row, whatever happens in between.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use super::rig::{Rig, count, eventually, is_long};

/// Lines of the long version, which is the promise, and of the short one.
const LINES: (u64, u64) = (200_000, 40_000);
/// The words of a level that are accepted, and the one that is stored.
const LEVELS: [(&str, &str); 10] = [
    ("trace", "DEBUG"),
    ("Debug", "DEBUG"),
    ("info", "INFO"),
    ("INFO", "INFO"),
    ("warn", "WARNING"),
    ("Warning", "WARNING"),
    ("error", "ERROR"),
    ("ERROR", "ERROR"),
    ("fatal", "CRITICAL"),
    ("critical", "CRITICAL"),
];

fn lines() -> u64 {
    if is_long() { LINES.0 } else { LINES.1 }
}

/// `lines` JSON lines, each with a number, a level and a time of its own.
fn input(lines: u64) -> String {
    let mut text = String::new();
    for n in 0..lines {
        let (level, stored) = LEVELS[usize::try_from(n).unwrap() % LEVELS.len()];
        let (second, micro) = (n / 1_000, n % 1_000 * 1_000 + 7);
        let (minute, second) = (second / 60, second % 60);
        writeln!(
            text,
            r#"{{"message":"line {n}","level":"{level}","timestamp":"2026-01-31T12:{minute:02}:{second:02}.{micro:06}Z","n":{n},"stored":"{stored}"}}"#
        )
        .unwrap();
    }
    text
}

/// logs.db has each line exactly once, with its time and its level.
fn has_each_line_once(rig: &Rig, lines: u64) {
    let lines = i64::try_from(lines).unwrap();
    let number = |sql| count(&rig.data(), sql);
    let rows = number("select count(*) from system_logs where source_id = 't'");
    let different =
        number("select count(distinct json_extract(metadata, '$.n')) from system_logs where source_id = 't'");
    assert_eq!((rows, different), (lines, lines), "rows, different lines");
    // 1769860800 is 2026-01-31T12:00:00Z.
    let right = number(
        "select count(*) from system_logs where source_id = 't' and source_type = 'external' \
         and log_level = json_extract(metadata, '$.stored') \
         and message = 'line ' || json_extract(metadata, '$.n') \
         and timestamp = 1769860800000000 + json_extract(metadata, '$.n') * 1000 + 7",
    );
    assert_eq!(right, lines, "lines with their own level, text and time");
}

#[test]
fn every_line_is_a_row() {
    let rig = Rig::new();
    let lines = lines();
    let file = rig.file("input", input(lines));
    let mut command = rig.command(&["ship", "--source", "t", "--wait-delivered"]);
    command.stdin(std::fs::File::open(file).unwrap());
    let said = rig.start(command).wait();
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    has_each_line_once(&rig, lines);
    rig.spools_add_up();
}

#[test]
fn a_killed_ship_goes_on_where_the_disk_is() {
    let rig = Rig::new();
    let lines = lines();
    let text = input(lines);
    let file = rig.file("input", &text);
    let mut command = rig.command(&["ship", "--source", "t", "--acks", "--wait-delivered"]);
    command.stdin(Stdio::piped());
    let mut running = rig.start(command);
    let mut stdin = running.stdin();
    let acked = |out: &str| -> u64 {
        let last = out.lines().rev().find(|line| line.ends_with('}')).unwrap_or(r#"{"durable": 0}"#);
        serde_json::from_str::<serde_json::Value>(last).unwrap()["durable"].as_u64().unwrap()
    };
    // Fed until an ack is above a quarter of the input, so the kill comes in the middle of work.
    let mut chunks = text.as_bytes().chunks(64 << 10);
    let is_enough = |out: &str| acked(out) > lines / 4;
    while !is_enough(&running.out()) {
        match chunks.next() {
            Some(chunk) => stdin.write_all(chunk).unwrap(),
            None => eventually("an ack", || is_enough(&running.out()).then_some(())),
        }
    }
    let durable = acked(&running.out());
    running.kill();
    drop(stdin);
    let mut command = rig.command(&["ship", "--source", "t", "--resume", "--wait-delivered"]);
    command.stdin(std::fs::File::open(file).unwrap());
    let said = rig.start(command).wait();
    assert_eq!(said.code, Some(0), "{said:?}");
    has_each_line_once(&rig, lines);
    rig.spools_add_up();
    println!("{lines} lines, killed after the ack of {durable}: every line once");
}
