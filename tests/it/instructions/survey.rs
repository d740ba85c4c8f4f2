//! Steps one scene: observes one child after each instruction, then kills fresh ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use super::judge::Found;
use super::scenes::FILES;
use super::stepper::{Child, Went};
use super::tell;

/// The identity of a ring tells its process, which differs from child to child: both places.
const IDENTITIES: [std::ops::Range<usize>; 2] = [0..64, 4_032..4_096];
/// Up to so many instructions, a fresh child is killed after each of them.
const KILLS_ALL_MAX: u64 = 2_000;
/// Children that are killed where there are more, on top of those at both sides of each change.
const KILLS_SPREAD: u64 = 60;
/// Instructions that are stepped in a scene which is killed at each system call, too.
pub(super) const OBSERVED_MAX: u64 = 100_000;

/// What is stepped.
pub(super) struct Scene {
    /// Its name.
    pub(super) name: &'static str,
    /// Lays out a folder before the child starts.
    pub(super) prepare: fn(&Path),
    /// What the child does, from [`super::stepper::mark`] to mark.
    pub(super) act: fn(&Path),
    /// What else happens while the child stands still, before it is killed.
    pub(super) meanwhile: Option<fn(&Path)>,
    /// Recovers and judges.
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
    /// The address of each instruction.
    path: Vec<u64>,
    /// Whether that is all of them.
    is_whole: bool,
    /// The files after so many instructions, until the next one.
    states: BTreeMap<u64, Files>,
    /// Every state that a kill can find, in order; of what maps nothing, also those that come after
    /// the last instruction that was stepped.
    known: Vec<Files>,
}

/// How often each kind of end was met.
type Ends = BTreeMap<Found, u64>;

/// Observes, kills, and says the numbers.
pub(super) fn survey(scene: &Scene, wants_all: bool) {
    let root = folder();
    // One path for all children, so that each takes the same way.
    let dir = root.path().join("child");
    let is_cut = scene.watch == Watch::SystemCalls && !wants_all;
    let observed = observe(scene, &dir, if is_cut { OBSERVED_MAX } else { u64::MAX });
    let (points, which) = points(&observed, wants_all && scene.watch == Watch::Instructions);
    let passes = passes(&observed.path);
    let (mut ends, mut beyond) = (Ends::new(), 0);
    for &point in &points {
        let (found, is_at_end) = kill_after(scene, &dir, point, &observed, &passes);
        *ends.entry(found).or_default() += 1;
        beyond += u64::from(is_at_end);
    }
    tell(&format!(
        "instructions: {}: {} instructions{} stepped and observed, {} states of the files, each recovered and \
         judged; {} children killed ({which}), each in one of {} known states, {beyond} of \
         them at the end, as they took another way: {}",
        scene.name,
        observed.path.len(),
        if observed.is_whole { "" } else { " (the first ones)" },
        observed.states.len(),
        points.len(),
        observed.known.len(),
        summary(&ends),
    ));
}

/// For what maps nothing: between two system calls a kill finds the same files, so each entry and
/// exit is one kill. Every `every`-th from `offset` on.
pub(super) fn survey_calls(scene: &Scene, every: usize, offset: usize) {
    let root = folder();
    let dir = root.path().join("child");
    let mut ends = Ends::new();
    let (mut kills, mut stops) = (0, offset);
    loop {
        let mut child = start(scene, &dir);
        let is_over = (0..stops).any(|_| child.step_to_system_call() == Went::ToTheMark);
        child.kill();
        *ends.entry((scene.judge)(&dir)).or_default() += 1;
        clear(&dir);
        kills += 1;
        if is_over {
            break;
        }
        stops += every;
    }
    tell(&format!(
        "instructions: {}: {stops} entries into and exits from system calls, a child killed at every {every}th \
         from {offset} on: {kills} killed: {}",
        scene.name,
        summary(&ends)
    ));
}

fn summary(ends: &Ends) -> String {
    ends.iter().map(|(end, count)| format!("{count} x {end}")).collect::<Vec<_>>().join(", ")
}

fn observe(scene: &Scene, dir: &Path, limit: u64) -> Observed {
    // Only what writes to mapped memory can change a file between two system calls.
    let by_calls = (scene.watch == Watch::SystemCalls).then(|| states_by_calls(scene, dir));
    let mut child = start(scene, dir);
    let states = BTreeMap::from([(0, files(dir))]);
    let mut observed = Observed { path: Vec::new(), is_whole: false, states, known: Vec::new() };
    let mut before = Found::default();
    while (observed.path.len() as u64) < limit {
        let look = scene.watch == Watch::Instructions || child.is_at_system_call();
        let address = child.address();
        if child.step() == Went::ToTheMark {
            observed.is_whole = true;
            break;
        }
        observed.path.push(address);
        let done = observed.path.len() as u64;
        if look && !observed.states.last_key_value().is_some_and(|(_, known)| is_unchanged(dir, known)) {
            observed.states.insert(done, files(dir));
            if scene.meanwhile.is_none() {
                let now = (scene.judge)(dir);
                assert!(now.covers(&before), "instruction {done}: {before:?}, and then {now:?}");
                before = now;
            }
        }
    }
    child.kill();
    clear(dir);
    assert!(scene.watch == Watch::SystemCalls || observed.states.len() > 3, "{} changes no file", scene.name);
    observed.known = observed.states.values().cloned().collect();
    if let Some(known) = by_calls {
        let strange = observed.states.iter().find(|(_, state)| !known.iter().any(|other| are_same(state, other)));
        assert!(
            strange.is_none(),
            "{}: a change outside of system calls: {:?}",
            scene.name,
            strange.map(|at| at.0)
        );
        observed.known = known;
    }
    observed
}

/// The states that a child's files go through, looked at where each system call begins and ends:
/// at full speed, so to the end.
fn states_by_calls(scene: &Scene, dir: &Path) -> Vec<Files> {
    let mut child = start(scene, dir);
    let mut states = vec![files(dir)];
    while child.step_to_system_call() == Went::On {
        if !states.last().is_some_and(|known| is_unchanged(dir, known)) {
            states.push(files(dir));
            (scene.judge)(dir);
        }
    }
    child.kill();
    clear(dir);
    assert!(states.len() > 3, "{} changes no file", scene.name);
    states
}

/// The instructions after which a fresh child is killed, and which these are.
fn points(observed: &Observed, wants_all: bool) -> (BTreeSet<u64>, String) {
    let all = observed.path.len() as u64;
    if wants_all || all <= KILLS_ALL_MAX {
        return ((0..=all).collect(), "each instruction".to_owned());
    }
    let changes = observed.states.keys().flat_map(|at| [at.saturating_sub(1), *at]);
    let every = all.div_ceil(KILLS_SPREAD);
    let offset = u64::from(std::process::id()) % every;
    let spread = (0..KILLS_SPREAD).map(|nth| offset + nth * every).filter(|at| *at <= all);
    let which = format!("both sides of each change, and every {every}th instruction from {offset} on");
    (changes.chain(spread).collect(), which)
}

/// For each instruction of the path, how often its address came by before.
fn passes(path: &[u64]) -> Vec<u32> {
    let mut passed: HashMap<u64, u32> = HashMap::new();
    let pass = |address: &u64| {
        let count = passed.entry(*address).or_default();
        *count += 1;
        *count - 1
    };
    path.iter().map(pass).collect()
}

/// The place from which the last steps to `point` are taken one by one: a child runs there at full
/// speed, but for a stop at each pass.
fn anchor(passes: &[u32], point: u64) -> usize {
    const BACK_MAX: usize = 2_000;
    const COST_OF_A_PASS: usize = 4;
    let point = usize::try_from(point).unwrap().min(passes.len() - 1);
    let cost = |at: &usize| passes[*at] as usize * COST_OF_A_PASS + point - at;
    (point.saturating_sub(BACK_MAX)..=point).min_by_key(cost).unwrap()
}

fn kill_after(scene: &Scene, dir: &Path, point: u64, observed: &Observed, passes: &[u32]) -> (Found, bool) {
    let mut child = start(scene, dir);
    // A breakpoint would stop another thread of the child, too: with one, every step is a step.
    let from = if scene.meanwhile.is_some() { 0 } else { anchor(passes, point) };
    let mut went = if from == 0 { Went::On } else { child.run_to(observed.path[from], passes[from]) };
    for _ in from as u64..point {
        if went == Went::On {
            went = child.step();
        }
    }
    // The allocator may take another way than it did in the observed child. Then which of the
    // states it is may differ by some instructions, or the place to run to never comes and the
    // child stands at its end; that it is one of them may not.
    let is_known = observed.known.iter().any(|known| is_unchanged(dir, known));
    assert!(is_known, "{}: after {point} instructions: {}", scene.name, strangeness(dir, &observed.known));
    if let Some(meanwhile) = scene.meanwhile {
        meanwhile(dir);
    }
    child.kill();
    let found = (scene.judge)(dir);
    clear(dir);
    (found, went == Went::ToTheMark && point < observed.path.len() as u64)
}

fn start(scene: &Scene, dir: &Path) -> Child {
    fs::create_dir(dir).unwrap();
    (scene.prepare)(dir);
    Child::start(|| (scene.act)(dir))
}

fn clear(dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
}

/// A folder in memory, where there is one.
pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn files(dir: &Path) -> Files {
    FILES.map(|name| fs::read(dir.join(name)).ok())
}

fn is_unchanged(dir: &Path, known: &Files) -> bool {
    are_same(&files(dir), known)
}

fn are_same(one: &Files, other: &Files) -> bool {
    one.iter().zip(other).all(|(one, other)| match (one, other) {
        (Some(one), Some(other)) => one == other || same_ring(one, other),
        (one, other) => one.is_none() && other.is_none(),
    })
}

/// In what the files differ from each state that is known.
fn strangeness(dir: &Path, known: &[Files]) -> String {
    let shape = |files: &Files| {
        FILES
            .iter()
            .zip(files)
            .map(|(name, file)| match file {
                Some(bytes) => format!("{name} of {} bytes", bytes.len()),
                None => format!("no {name}"),
            })
            .collect::<Vec<_>>()
            .join(", ")
    };
    let now = files(dir);
    let mut text = format!("the files are as never observed: {}", shape(&now));
    for state in known {
        let differs = now.iter().zip(state).map(|pair| match pair {
            (Some(now), Some(known)) => now.iter().zip(known).position(|(now, known)| now != known),
            _ => None,
        });
        text += &format!("\n  known: {}; first different bytes: {:?}", shape(state), differs.collect::<Vec<_>>());
    }
    text
}

/// But for whose it is: the words of the identity count only as there or not.
fn same_ring(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    let mut same_identities = true;
    for range in IDENTITIES {
        let (Some(mine), Some(theirs)) = (one.get(range.clone()), other.get(range.clone())) else { return false };
        let words = mine.as_chunks::<8>().0.iter().zip(theirs.as_chunks::<8>().0);
        same_identities &= words.into_iter().all(|(mine, theirs)| (*mine == [0; 8]) == (*theirs == [0; 8]));
        if one[at..range.start] != other[at..range.start] {
            return false;
        }
        at = range.end;
    }
    same_identities && one[at..] == other[at..]
}
