//! Where the ring goes, by injected file systems.

use expect_test::{Expect, expect};

use super::*;

const NFS: u64 = 0x6969;
const OVERLAY: u64 = 0x794C_7630;

/// Folder, its overlay's upper folder, shared memory.
struct Three(u64, Option<u64>, u64);

impl place::Kinds for Three {
    fn magic(&self, path: &Path) -> io::Result<u64> {
        Ok(match path.file_name().and_then(|name| name.to_str()) {
            Some("upper") => self.1.unwrap(),
            Some("shm") => self.2,
            _ => self.0,
        })
    }

    fn upper(&self, path: &Path) -> io::Result<PathBuf> {
        self.1.map(|_| path.join("upper")).ok_or_else(|| io::Error::other("no mount tells"))
    }
}

fn check(kinds: Three, expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    let shm = dir.path().join("shm");
    std::fs::create_dir(&shm).unwrap();
    let config = RingConfig { capacity_bytes: SMALL, boot: BOOT, kernel_boot: KERNEL };
    let ring = Ring::create_at(dir.path(), &shm, &config, &kinds).unwrap();
    expected.assert_eq(&ring.backing().to_string().replace(&dir.path().display().to_string(), "DIR"));
    let seq = log(&ring, b"kept").unwrap();
    let found = recover(dir.path(), KERNEL).unwrap().map(|found| found.entries[0].seq);
    let has_file = !matches!(ring.backing(), Backing::Anonymous { .. });
    assert_eq!(found, has_file.then_some(seq));
    remove(dir.path()).unwrap();
    assert_eq!(recover(dir.path(), KERNEL).unwrap(), None);
    assert_eq!(std::fs::read_dir(&shm).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn only_known_file_systems_hold_the_ring() {
    let in_folder = || expect!["a record survives a killed process from its log call on"];
    for kind in [EXT4, 0x5846_5342, 0x0102_1994] {
        check(Three(kind, None, NFS), in_folder());
        check(Three(OVERLAY, Some(kind), NFS), in_folder());
    }
    check(
        Three(NFS, None, EXT4),
        expect![
            "a record survives a killed process, but until it is in the spool not a restart of the machine or container: the ring is in /dev/shm (DIR is on a file system of type 0x6969)"
        ],
    );
    check(
        Three(OVERLAY, Some(NFS), EXT4),
        expect![
            "a record survives a killed process, but until it is in the spool not a restart of the machine or container: the ring is in /dev/shm (overlay over a file system of type 0x6969)"
        ],
    );
    check(
        Three(OVERLAY, None, NFS),
        expect![
            "a record survives a killed process only once it is in the spool: the ring is in plain memory (overlay: no mount tells; DIR/shm is on a file system of type 0x6969)"
        ],
    );
}

#[test]
fn a_ring_that_is_there_is_not_written_over() {
    let (dir, ring) = ring(SMALL);
    log(&ring, b"mine").unwrap();
    let config = RingConfig { capacity_bytes: SMALL, boot: Uuid::nil(), kernel_boot: KERNEL };
    let error = Ring::create(dir.path(), &config).unwrap_err();
    assert!(matches!(error, RingError::Exists { .. }), "{error}");
}

#[test]
fn the_kernel_says_where_this_folder_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = RingConfig { capacity_bytes: 5_000, boot: Uuid::new_v4(), kernel_boot: KERNEL };
    let ring = Ring::create(dir.path(), &config).unwrap();
    assert_eq!(ring.capacity_bytes(), 8_192);
    log(&ring, b"x").unwrap();
    remove(dir.path()).unwrap();
}
