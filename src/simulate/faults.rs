//! What can go wrong in the simulated world, how often it does, and how often it did.
//!
//! Each seed draws which faults it knows and how hard they strike: a world in which everything goes
//! wrong at once hides what a world with two faults shows.

use std::collections::BTreeMap;

use super::rng::Rng;

macro_rules! faults {
    ($($name:ident = $word:literal, $rate:expr;)*) => {
        /// A fault, or something else that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Fault { $($name),* }

        impl Fault {
            /// All of them.
            const ALL: &[Fault] = &[$(Fault::$name),*];

            /// Its name in the report.
            fn word(self) -> &'static str {
                match self { $(Fault::$name => $word),* }
            }

            /// How often it strikes where it is known: a chance per occasion, or times a day.
            fn rate(self) -> f64 {
                match self { $(Fault::$name => $rate),* }
            }
        }
    };
}

faults! {
    CapacityGone = "capacity_gone", 3.0;
    CapacityShort = "capacity_short", 3.0;
    CreateRefused = "create_refused", 0.03;
    CreateErrorButMade = "create_500_but_created", 0.03;
    CreateAnswerLost = "create_answer_lost", 0.02;
    CreateRequestLost = "create_request_lost", 0.02;
    CreateHangs = "create_hangs", 0.01;
    ListLags = "list_lags", 0.2;
    ListPartial = "list_partial", 0.01;
    ListFails = "list_fails", 0.01;
    TerminateFails = "terminate_fails", 0.05;
    TerminateAnswerLost = "terminate_answer_lost", 0.05;
    TerminateLies = "terminate_lies", 0.3;
    PodNeverBoots = "pod_never_boots", 0.04;
    PodBootsSlowly = "pod_boots_slowly", 0.04;
    PodCrashesAtBoot = "pod_crashes_at_boot", 0.05;
    BadImage = "bad_image", 0.7;
    PodVanishes = "pod_vanishes", 2.0;
    AgentHangs = "agent_hangs", 2.0;
    AgentWakes = "agent_wakes", 10.0;
    TaskHangs = "task_hangs", 0.01;
    AgentCrashes = "agent_crashes", 2.0;
    CrashAtClaim = "crash_at_claim", 0.01;
    CallFails = "call_fails", 0.005;
    CallAnswerLost = "call_answer_lost", 0.005;
    StoreFails = "store_fails", 0.002;
    StoreAnswerLost = "store_answer_lost", 0.002;
    StoreOutage = "store_outage", 0.7;
    StoreClockJumps = "store_clock_jumps", 1.0;
    SlowCall = "slow_call", 0.01;
    Pause = "pause_longer_than_lease", 0.000_3;
    Kill = "kill", 0.000_5;
    GracefulRestart = "graceful_restart", 0.7;
    PoisonTask = "poison_task", 0.005;
    AncientTasks = "ancient_tasks", 0.5;
    ForeignPod = "foreign_pod", 2.0;
    OperatorPause = "operator_pause", 0.3;
    UserWithoutCredits = "user_without_credits", 2.0;
    BreakerOpened = "breaker_opened", 0.0;
    CellBreakerOpened = "cell_breaker_opened", 0.0;
    CellPassedOver = "cell_passed_over", 0.0;
    LeaderChanged = "leader_changed", 0.0;
    AmbiguousCreate = "ambiguous_create", 0.0;
}

/// How hard each fault strikes in one world; and what struck.
#[derive(Debug, Clone)]
pub(super) struct Faults {
    rates: Vec<f64>,
    struck: Vec<u64>,
    /// Whether faults strike at the moment.
    pub(super) on: bool,
}

impl Faults {
    /// A world in which nothing goes wrong.
    pub(super) fn none() -> Faults {
        Faults { rates: vec![0.0; Fault::ALL.len()], struck: vec![0; Fault::ALL.len()], on: false }
    }

    /// A draw.
    pub(super) fn drawn(rng: &mut Rng) -> Faults {
        let mut faults = Faults::none();
        for fault in Fault::ALL {
            let known = rng.chance(0.7);
            let force = [0.5, 1.0, 1.0, 3.0][usize::try_from(rng.below(4)).unwrap_or(0)];
            faults.rates[*fault as usize] = if known { fault.rate() * force } else { 0.0 };
        }
        faults
    }

    /// Whether the fault strikes on this occasion. It is not counted yet.
    pub(super) fn strikes(&self, fault: Fault, rng: &mut Rng) -> bool {
        self.on && rng.chance(self.rates[fault as usize])
    }

    /// How often a day, for faults that strike by themselves.
    pub(super) fn a_day(&self, fault: Fault) -> f64 {
        self.rates[fault as usize]
    }

    /// Counts one.
    pub(super) fn count(&mut self, fault: Fault) {
        self.struck[fault as usize] += 1;
    }

    /// What struck, by name.
    pub(super) fn struck(&self) -> BTreeMap<&'static str, u64> {
        Fault::ALL.iter().map(|fault| (fault.word(), self.struck[*fault as usize])).collect()
    }
}
