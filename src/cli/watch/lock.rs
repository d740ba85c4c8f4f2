//! One watch a folder.
//!
//! A watch outlives a killed `up`, since that is what it is there to notice; the watch of the next
//! `up` ends it and takes its place. The lock dies with its process, whose pid stands in the file.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::clock;
use crate::error::BadInput;

/// Time the predecessor has to end after SIGTERM; then it is killed.
const END_WITHIN: Duration = Duration::from_secs(10);
/// Time the kernel has to end it after that.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// Period of looks.
const LOOK: Duration = Duration::from_millis(20);

/// Takes the folder's lock, which holds as long as the file is open.
///
/// # Errors
/// Another watch has it, and `take_over` was not asked for or did not help.
pub(super) fn take(data_dir: &Path, take_over: bool) -> anyhow::Result<File> {
    let path = data_dir.join("watch.lock");
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
    let (start, mut sent) = (clock::monotonic(), None);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        let waited = clock::monotonic().saturating_sub(start);
        if !take_over || waited > END_WITHIN + KILLED_WITHIN {
            return Err(BadInput::new(
                format!("another dogwatch watch works in {}", data_dir.display()),
                "end it (dogwatch up runs one), or give this one a folder of its own with --data-dir",
            )
            .into());
        }
        let signal = if waited > END_WITHIN { Signal::KILL } else { Signal::TERM };
        if let Some(pid) = holder(&mut file)?.filter(|pid| sent != Some((*pid, signal))) {
            // It may have ended in between, which is what was wanted.
            let _ = rustix::process::kill_process(pid, signal);
            sent = Some((pid, signal));
        }
        let _ = crossbeam_channel::after(LOOK).recv();
    }
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(std::process::id().to_string().as_bytes())?;
    Ok(file)
}

/// Who has the lock: the pid in the file, if that process has this very file open. One that was
/// killed has left its pid, which may be somebody else's by now.
fn holder(file: &mut File) -> std::io::Result<Option<Pid>> {
    let mut text = String::new();
    file.rewind()?;
    file.take(32).read_to_string(&mut text)?;
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(None) };
    let own = file.metadata()?;
    let Ok(open) = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) else { return Ok(None) };
    let has_it = open.flatten().any(|entry| {
        std::fs::metadata(entry.path()).is_ok_and(|other| (other.dev(), other.ino()) == (own.dev(), own.ino()))
    });
    Ok(has_it.then_some(pid))
}
