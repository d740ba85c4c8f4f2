//! `dogwatch demo`: a one-minute story on real work, in a throwaway folder, with a verdict.
//!
//! Real agents compress, hash and transform files that the demo makes; one worker is killed in the
//! middle of a task; another process locks logs.db, so that records stop arriving and the watch
//! has to notice; then everything is checked against the databases and the spools on disk. It asks
//! neither the environment nor the network, and leaves nothing behind, also after Ctrl-C. With
//! `--postgres` the same story is told on a database of that server, which is made for it and dropped.

mod checks;
mod database;
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
use crate::error::{BadInput, Exit};

pub(super) use self::database::drop_database;
pub(super) use self::lock::hold_lock;

use self::database::{Dropper, Server};
use self::verdict::Verdict;

/// The story is over by then, whatever happens.
const STORY_LIMIT: Duration = Duration::from_secs(85);

pub(super) fn main(args: &DemoArgs) -> Outcome {
    let server = args.postgres.as_deref().map(Server::of).transpose()?;
    let folder = Throwaway::make()?;
    let config = config(&folder.0, server.as_ref())?;
    let teller = Teller::new(args.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut dropper = None;
    let told = runtime.block_on(async {
        let tale = async {
            if let Some(server) = &server {
                let role = server.reach().await?;
                dropper = Some(Dropper::stand_by(server, role)?);
                server.make().await?;
                teller.say(format!("database {} is made, and dropped at the end", server.place()));
            }
            story::Story::new(config, folder.0.clone()).tell(&teller).await
        };
        tokio::select! {
            told = tokio::time::timeout(STORY_LIMIT, tale) => match told {
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
    let dropped = dropper.map(Dropper::drop_now);
    let Some(mut verdict) = told? else { return Ok(Exit::Problem) };
    let processes = match leftovers.len() {
        0 => "no process of the demo is left".to_owned(),
        count => format!("{count} processes had to be ended: {leftovers:?}"),
    };
    let detail = match dropped {
        None => processes,
        Some(true) => format!("{processes}, its database is dropped"),
        Some(false) => format!("{processes}, its database could not be dropped"),
    };
    verdict.check("nothing_left_behind", leftovers.is_empty() && dropped != Some(false), detail);
    show(&verdict, args.json)
}

/// The demo's own settings; nothing is asked of the environment.
fn config(folder: &Path, server: Option<&Server>) -> Result<Config, BadInput> {
    let mut flags = vec![
        ("DOGWATCH_DATA_DIR", folder.join("data").display().to_string()),
        ("DOGWATCH_LISTEN", "127.0.0.1:0".to_owned()),
        ("DOGWATCH_WATCH_LISTEN", "127.0.0.1:0".to_owned()),
        ("DOGWATCH_ENV", "demo".to_owned()),
    ];
    flags.extend(server.map(|server| ("DATABASE_URL", server.own_url().to_owned())));
    Config::load(Profile::Demo, &flags)
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
