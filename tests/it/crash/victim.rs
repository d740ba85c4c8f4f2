//! A child process that is killed: this test binary again, told by the environment what to do.

use std::io::{PipeReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dogwatch::clock;

use super::child::{ORDER, Order, RUNNING, STARTING};

/// When the kill comes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    /// So many numbers have come through the pipe, and then so much time.
    AfterNumbers(u64, Duration),
    /// So much time after the recorder has begun to start.
    AfterStart(Duration),
}

/// A process that is to be killed.
pub(super) struct Victim {
    process: Child,
    pipe: PipeReader,
}

/// What a killed process said.
pub(super) struct Dead {
    /// Every number whose macro had returned.
    pub(super) numbers: Vec<u64>,
    /// Whether its recorder had started, and so had taken over what it found.
    pub(super) had_started: bool,
}

impl Victim {
    pub(super) fn start(order: &Order) -> Victim {
        let (pipe, told) = std::io::pipe().unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["crash::child::runs_only_as_a_child", "--exact", "--nocapture", "--test-threads=1"])
            .env(ORDER, serde_json::to_string(order).unwrap())
            // Standard output belongs to the test harness, so numbers go out by standard input.
            .stdin(Stdio::from(told))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Victim { process, pipe }
    }

    /// Lets it end by itself; its numbers.
    pub(super) fn spared(mut self) -> Vec<u64> {
        let mut ended = Dead { numbers: Vec::new(), had_started: false };
        while let Some(said) = next(&mut self.pipe) {
            ended.hear(said);
        }
        assert!(self.process.wait().unwrap().success());
        ended.numbers
    }

    pub(super) fn killed_at(mut self, moment: Moment) -> Dead {
        let mut dead = Dead { numbers: Vec::new(), had_started: false };
        loop {
            let said = next(&mut self.pipe);
            let said = said.unwrap_or_else(|| panic!("the child has ended by itself: {:?}", self.process.wait()));
            dead.hear(said);
            let pause = match moment {
                Moment::AfterNumbers(count, pause) if dead.numbers.len() as u64 == count => pause,
                Moment::AfterStart(pause) if said == STARTING => pause,
                _ => continue,
            };
            // Finer than any sleep: the moment is to fall between two instructions.
            let until = clock::monotonic() + pause;
            while clock::monotonic() < until {
                std::hint::spin_loop();
            }
            break;
        }
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        while let Some(said) = next(&mut self.pipe) {
            dead.hear(said);
        }
        dead
    }
}

impl Dead {
    fn hear(&mut self, said: u64) {
        match said {
            STARTING => {}
            RUNNING => self.had_started = true,
            number => self.numbers.push(number),
        }
    }
}

fn next(pipe: &mut PipeReader) -> Option<u64> {
    let mut bytes = [0; 8];
    pipe.read_exact(&mut bytes).ok().map(|()| u64::from_le_bytes(bytes))
}
