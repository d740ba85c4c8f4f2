//! Steps one scene: observes one child after each instruction, then kills fresh ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::judge::Found;
use super::scenes::FILES;
use super::stepper::{Child, Went};
use super::tell;

/// The identity of a ring tells its process, which differs from child to child: both places.
const IDENTITIES: [std::ops::Range<usize>; 2] = [0..64, 4_032..4_096];

/// What is stepped.
pub(super) struct Scene {
    /// Its name.
    pub(super) name: &'static str,
    /// Lays out a folder before the child starts.
    pub(super) prepare: fn(&Path),
    /// What the child does, from [`super::stepper::mark`] to mark.
    pub(super) act: fn(&Path),
    /// What else happens while the child stands still, before it is killed for good.
    pub(super) meanwhile: Option<fn(&Path)>,
    /// Recovers and judges; the text says what kind of end it was.
    pub(super) judge: fn(&Path) -> Found,
    /// When files are looked at.
    pub(super) watch: Watch,
}

/// When the files of an observed child are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// After each instruction: it writes to mapped memory.
    Instructions,
    /// After each system call: it maps nothing that outlives it.
    SystemCalls,
}

/// The bytes of each of [`FILES`]; none: it is not there.
type Files = [Option<Vec<u8>>; FILES.len()];

/// What one child went through.
struct Observed {
    instructions: u64,
    /// The files after so many instructions, until the next one.
    states: BTreeMap<u64, Files>,
}

/// Observes, kills, and says the numbers.
pub(super) fn survey(scene: &Scene, steps_max: u64) {
    let root = folder();
    let mut ends: BTreeMap<Found, u64> = BTreeMap::new();
    let observed = observe(scene, root.path());
    let (points, every, offset) = points(&observed, steps_max);
    for &point in &points {
        let dir = root.path().join(format!("killed-{point}"));
        *ends.entry(kill_after(scene, &dir, point, &observed)).or_default() += 1;
        fs::remove_dir_all(&dir).unwrap();
    }
    let which = match every {
        1 => "each instruction".to_owned(),
        _ => format!("both sides of each change and every {every}th instruction from {offset} on"),
    };
    tell(&format!(
        "instructions: {}: {} instructions stepped and observed, {} states of the files, each recovered and \
         judged; {} children killed ({which}): {}",
        scene.name,
        observed.instructions,
        observed.states.len(),
        points.len(),
        ends.iter().map(|(end, count)| format!("{count} x {end}")).collect::<Vec<_>>().join(", "),
    ));
}

fn observe(scene: &Scene, root: &Path) -> Observed {
    let dir = root.join("observed");
    let mut child = start(scene, &dir);
    let mut observed = Observed { instructions: 0, states: BTreeMap::from([(0, files(&dir))]) };
    let mut before = Found::default();
    loop {
        let look = scene.watch == Watch::Instructions || child.is_at_system_call();
        if child.step() == Went::ToTheMark {
            break;
        }
        observed.instructions += 1;
        let unchanged = |known: &Files| is_unchanged(&dir, known);
        if look && !observed.states.last_key_value().is_some_and(|(_, known)| unchanged(known)) {
            observed.states.insert(observed.instructions, files(&dir));
            if scene.meanwhile.is_none() {
                let now = (scene.judge)(&dir);
                assert!(now.covers(&before), "instruction {}: {before:?} then {now:?}", observed.instructions);
                before = now;
            }
        }
    }
    assert!(observed.states.len() > 3, "{} changes no file", scene.name);
    observed
}

/// The instructions after which a fresh child is killed; every how many; from which on.
fn points(observed: &Observed, steps_max: u64) -> (BTreeSet<u64>, u64, u64) {
    let all = observed.instructions;
    let changes: BTreeSet<u64> = observed.states.keys().flat_map(|at| [at.saturating_sub(1), *at]).collect();
    let needed: u64 = changes.iter().sum();
    let left = steps_max.saturating_sub(needed).max(1);
    let every = (all.saturating_mul(all) / 2).div_ceil(left).max(1);
    let offset = u64::from(std::process::id()) % every;
    let regular = (0..=all).skip(usize::try_from(offset).unwrap()).step_by(usize::try_from(every).unwrap());
    (regular.chain(changes).collect(), every, offset)
}

fn kill_after(scene: &Scene, dir: &Path, point: u64, observed: &Observed) -> Found {
    let mut child = start(scene, dir);
    for step in 0..point {
        assert_eq!(child.step(), Went::On, "the child came to its mark at {step}");
    }
    let (_, expected) = observed.states.range(..=point).next_back().unwrap();
    assert!(is_unchanged(dir, expected), "{}: other files than observed after {point}", scene.name);
    if let Some(meanwhile) = scene.meanwhile {
        meanwhile(dir);
    }
    child.kill();
    (scene.judge)(dir)
}

fn start(scene: &Scene, dir: &Path) -> Child {
    fs::create_dir(dir).unwrap();
    (scene.prepare)(dir);
    Child::start(|| (scene.act)(dir))
}

/// A folder in memory, where there is one.
pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn files(dir: &Path) -> Files {
    FILES.map(|name| fs::read(dir.join(name)).ok())
}

fn is_unchanged(dir: &Path, known: &Files) -> bool {
    files(dir).iter().zip(known).all(|(now, known)| match (now, known) {
        (Some(now), Some(known)) => now == known || same_ring(now, known),
        (now, known) => now.is_none() && known.is_none(),
    })
}

/// But for whose it is.
fn same_ring(one: &[u8], other: &[u8]) -> bool {
    let masked = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        for range in IDENTITIES {
            if let Some(part) = bytes.get_mut(range) {
                // The magic and the words after it count only as there or not.
                part.chunks_mut(8).for_each(|word| word.fill(u8::from(word.iter().any(|byte| *byte != 0))));
            }
        }
        bytes
    };
    one.len() == other.len() && masked(one) == masked(other)
}
