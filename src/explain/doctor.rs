//! What `dogwatch doctor` makes of what it saw: one finding a question, each with its evidence and,
//! where something is wrong, what to do.
//!
//! Pure: the questions are asked by the command line. A thing that could not be seen is never "ok".

use serde::Serialize;

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and deserves a look.
    Warning,
    /// It does not work.
    Problem,
}

/// One question's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was asked.
    pub check: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was seen.
    pub evidence: String,
    /// What to do; empty where nothing is to be done.
    pub fix: String,
}

/// A difference of clocks that is told, seconds.
const SKEW_WARNING_SECONDS: f64 = 2.0;
/// A difference of clocks under which leases and heartbeats are misjudged by people, seconds.
const SKEW_PROBLEM_SECONDS: f64 = 60.0;

/// Variables that hold rights over a whole project or account.
const FAR_REACHING: [&str; 5] =
    ["SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SECRET_KEY", "RUNPOD_API_KEY", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY"];
/// Variables that only a worker's pod has.
const OF_A_POD: [&str; 2] = ["DOGWATCH_WORKER_TOKEN", "RUNPOD_POD_ID"];

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, evidence: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Ok, evidence: evidence.into(), fix: String::new() }
    }

    /// It works, and deserves a look.
    pub fn warning(check: &'static str, evidence: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Warning, evidence: evidence.into(), fix: fix.into() }
    }

    /// It does not work.
    pub fn problem(check: &'static str, evidence: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Problem, evidence: evidence.into(), fix: fix.into() }
    }
}

/// The database's clock beside this machine's; `seconds` is how far the database is ahead.
pub fn clocks(seconds: f64) -> Finding {
    let evidence = format!("the database's clock is {seconds:+.1} s beside this machine's");
    let fix = "set this machine's clock by NTP; times in the fleet are the database's and stay right";
    match seconds.abs() {
        off if off >= SKEW_PROBLEM_SECONDS => Finding::problem("clock", evidence, fix),
        off if off >= SKEW_WARNING_SECONDS => Finding::warning("clock", evidence, fix),
        _ => Finding::ok("clock", evidence),
    }
}

/// How many rows there are, as the database counts them. `cap` is where a Data API before it ends each
/// list without a word: a number read there is a cap and no fact.
pub fn rows(tasks: u64, users: usize, cap: Option<u64>) -> Finding {
    let counted = format!("{tasks} tasks of {users} users, counted in the database");
    match cap {
        None => Finding::ok("rows", counted),
        Some(cap) if tasks <= cap => {
            Finding::ok("rows", format!("{counted}; a list through the Data API ends after {cap} rows"))
        }
        Some(cap) => Finding::warning(
            "rows",
            format!("{counted}; a list through the Data API ends after {cap} of them and does not say so"),
            "count in the database (`dogwatch tasks --by user`) or read page by page; the number is the Data API's Max rows",
        ),
    }
}

/// Rights in the environment that nobody here needs. `is_set` says whether a variable has a value;
/// `used` are those that the settings take.
pub fn secrets(is_set: impl Fn(&str) -> bool, used: &[&str]) -> Finding {
    let found: Vec<&str> = FAR_REACHING.into_iter().filter(|name| is_set(name) && !used.contains(name)).collect();
    let pod = OF_A_POD.into_iter().find(|name| is_set(name));
    let reach: Vec<&str> = ["DATABASE_URL"].into_iter().chain(FAR_REACHING).filter(|name| is_set(name)).collect();
    match pod {
        Some(mark) if !reach.is_empty() => Finding::problem(
            "secrets",
            format!("this is a worker's pod ({mark} is set), and it holds {}", reach.join(", ")),
            "a pod needs its own worker token and nothing else: take these out of its environment",
        ),
        _ if !found.is_empty() => Finding::warning(
            "secrets",
            format!("{} set, and nothing here uses them", found.join(", ")),
            "unset what is not needed: every program started from here inherits it",
        ),
        _ => Finding::ok("secrets", "no secret in the environment that should not be there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_told_and_then_a_problem() {
        let verdicts = [0.3, -5.0, 61.0].map(|seconds| clocks(seconds).verdict);
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Warning, Verdict::Problem]);
        assert!(clocks(-5.0).evidence.contains("-5.0 s"));
    }

    #[test]
    fn a_list_that_a_data_api_cuts_is_told() {
        let verdicts = [(5_000, None), (999, Some(1_000)), (1_000, Some(1_000)), (1_001, Some(1_000))]
            .map(|(tasks, cap)| rows(tasks, 3, cap).verdict);
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Ok, Verdict::Ok, Verdict::Warning]);
    }

    #[test]
    fn a_pod_with_the_keys_of_the_house_is_a_problem() {
        let set = |names: &'static [&'static str]| move |name: &str| names.contains(&name);
        assert_eq!(secrets(set(&["DATABASE_URL"]), &[]).verdict, Verdict::Ok);
        let pod = secrets(set(&["DOGWATCH_WORKER_TOKEN", "DATABASE_URL"]), &[]);
        assert_eq!(pod.verdict, Verdict::Problem);
        assert!(pod.evidence.contains("DATABASE_URL"), "{}", pod.evidence);
        assert_eq!(secrets(set(&["RUNPOD_API_KEY"]), &[]).verdict, Verdict::Warning);
        assert_eq!(secrets(set(&["RUNPOD_API_KEY"]), &["RUNPOD_API_KEY"]).verdict, Verdict::Ok);
    }
}
