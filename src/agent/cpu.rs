//! CPU time of a process group, as a sign of progress of programs that print nothing.

use std::path::Path;

/// Clock ticks that the live processes of the group have used; None where /proc cannot be read.
pub(super) fn group_ticks(group: i32) -> Option<u64> {
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let numbered = processes.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    Some(numbered.filter_map(|entry| ticks_in(&entry.path(), group)).sum())
}

fn ticks_in(process: &Path, group: i32) -> Option<u64> {
    parse_stat(&std::fs::read_to_string(process.join("stat")).ok()?, group)
}

/// utime + stime of a `/proc/<pid>/stat` line, if the process is of the group.
fn parse_stat(stat: &str, group: i32) -> Option<u64> {
    // The command in parentheses may hold anything, also spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i64>().ok());
    (number(2)? == i64::from(group)).then_some(())?;
    u64::try_from(number(11)? + number(12)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_command_is_called() {
        let stat = "4242 (a) b (c) R 1 77 77 0 -1 4194304 90 0 0 0 13 5 0 0 20 0 1 0 8 0 0";
        assert_eq!(parse_stat(stat, 77), Some(18));
        assert_eq!(parse_stat(stat, 78), None);
        assert_eq!(parse_stat("", 77), None);
    }

    #[test]
    fn our_own_group_has_used_some_time() {
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        assert!(group_ticks(group).is_some());
    }
}
