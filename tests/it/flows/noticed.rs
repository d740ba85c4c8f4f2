//! Who notices, measured: each fault of docs/who-noticed.md done to real processes on a real Postgres,
//! with a watch and a Prometheus beside them; what noticed it in each column, and after how long.
//!
//! Each scene has a fleet of its own, and all run side by side. Limits are scaled down, and there is
//! three times the promised time; with DOGWATCH_TEST_LONG=1 they are those of a real fleet. Faults of
//! the embedded database are in `silence`, threads that stall or panic beside the recorder.

mod fleet;
mod measure;
mod scenes;

use std::io::Write as _;
use std::thread;

use self::measure::Row;

#[test]
fn each_fault_done_to_real_processes_is_noticed_within_three_times_its_deadline() {
    let scenes = [scenes::wires, scenes::rights, scenes::disk, scenes::stops, scenes::agents, scenes::skew];
    let ended = thread::scope(|scope| {
        let running = scenes.map(|scene| scope.spawn(scene));
        running.map(thread::ScopedJoinHandle::join)
    });
    let mut rows: Vec<Row> = Vec::new();
    let mut failed = None;
    for scene in ended {
        match scene {
            Ok(found) => rows.extend(found),
            Err(panic) => failed = Some(panic),
        }
    }
    // A line that the test runner does not swallow.
    let _ = writeln!(std::io::stdout(), "{}", measure::table(&rows));
    if let Some(panic) = failed {
        std::panic::resume_unwind(panic);
    }
}
