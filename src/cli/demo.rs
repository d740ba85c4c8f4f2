//! `dogwatch demo`: a one-minute story on real work, in a throwaway folder, with a verdict.
//!
//! Real agents compress, hash and transform files that the demo makes; one worker is killed in the
//! middle of a task; another process locks logs.db, so that records stop arriving and the watch
//! has to notice; then everything is checked against the databases and the spools on disk. It asks
//! neither the environment nor the network, and leaves nothing behind, also after Ctrl-C.

mod checks;
mod lock;
mod story;
mod verdict;
mod work;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::DemoArgs;
use super::up::wait_for_signal;
use super::{Outcome, render};
use crate::clock;
use crate::config::{Config, Profile};
use crate::error::Exit;

pub(super) use self::lock::hold_lock;

use self::verdict::Verdict;

/// The story is over by then, whatever happens.
const STORY_LIMIT: Duration = Duration::from_secs(85);

pub(super) fn main(args: &DemoArgs) -> Outcome {
    let folder = Throwaway::make()?;
    let flags = vec![
        ("DOGWATCH_DATA_DIR", folder.0.join("data").display().to_string()),
        ("DOGWATCH_LISTEN", "127.0.0.1:0".to_owned()),
        ("DOGWATCH_WATCH_LISTEN", "127.0.0.1:0".to_owned()),
        ("DOGWATCH_ENV", "demo".to_owned()),
    ];
    let config = Config::load(Profile::Demo, &flags)?;
    let teller = Teller::new(args.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let told = runtime.block_on(async {
        let (story, tale) = (story::Story::new(config, folder.0.clone()), &teller);
        tokio::select! {
            told = tokio::time::timeout(STORY_LIMIT, story.tell(tale)) => match told {
                Ok(told) => told.map(Some),
                Err(_) => Err(anyhow::anyhow!("the story was not over after {} s", STORY_LIMIT.as_secs())),
            },
            signal = wait_for_signal() => {
                render::note(format!("dogwatch demo: {}: nothing stays behind", signal?));
                Ok(None)
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    let leftovers = end_leftovers(&folder.0);
    drop(folder);
    let Some(mut verdict) = told? else { return Ok(Exit::Problem) };
    verdict.check(
        "nothing_left_behind",
        leftovers.is_empty(),
        match leftovers.len() {
            0 => "no process of the demo is left".to_owned(),
            count => format!("{count} processes had to be ended: {leftovers:?}"),
        },
    );
    show(&verdict, args.json)
}

fn show(verdict: &Verdict, json: bool) -> Outcome {
    if json {
        render::line(serde_json::to_string(verdict)?)?;
    } else {
        render::line(verdict.page())?;
    }
    Ok(if verdict.ok { Exit::Ok } else { Exit::Problem })
}

/// Says what happens, with the time since the start; silent where JSON was asked for.
pub(super) struct Teller {
    silent: bool,
    start: Duration,
}

impl Teller {
    fn new(silent: bool) -> Teller {
        Teller { silent, start: clock::monotonic() }
    }

    fn say(&self, text: impl AsRef<str>) {
        if !self.silent {
            let seconds = clock::monotonic().saturating_sub(self.start).as_secs_f64();
            render::note(format!("{seconds:5.1} s  {}", text.as_ref()));
        }
    }
}

/// A folder that vanishes with this value.
struct Throwaway(PathBuf);

impl Throwaway {
    fn make() -> anyhow::Result<Throwaway> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("dogwatch-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Throwaway(path))
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ends processes that still name the demo's folder in their environment or arguments; returns
/// their pids. There are none unless something went wrong.
fn end_leftovers(folder: &Path) -> Vec<i32> {
    let needle = folder.display().to_string();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut ended = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let names_folder = ["cmdline", "environ"].iter().any(|file| {
            std::fs::read(entry.path().join(file))
                .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&needle))
        });
        if pid == own || !names_folder {
            continue;
        }
        if let Some(pid) = rustix::process::Pid::from_raw(pid)
            && rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
        {
            ended.push(pid.as_raw_nonzero().get());
        }
    }
    ended
}
